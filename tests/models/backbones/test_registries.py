"""All published weights of timm and open_clip: each runs, or leads to an error that names a feature."""

import functools
import gc
import re
import sys
from pathlib import Path

import open_clip as library
import pytest
import timm
from cases import FULL
from full_size import assert_same, library_module, modules_built_once

from models.backbones.families import timm_resnet

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts"))

import list_backbones  # noqa: E402  (needs the path)

PAGE = (ROOT / "docs/backbones.md").read_text()


@pytest.fixture(scope="module")
def published():
    """The result for every published weight file. A module shared by several of them is built once."""
    with pytest.MonkeyPatch.context() as patch, modules_built_once():
        patch.setattr(timm_resnet, "imagenet_net", functools.cache(timm_resnet.imagenet_net))
        gc.disable()  # the modules stay, and would be scanned repeatedly
        try:
            return list(list_backbones.survey())  # raises for any other result
        finally:
            gc.enable()


def test_each_is_described_or_refused(published):
    names = [f"timm:{name}" for name in timm.list_pretrained()]
    names += [f"open_clip:{model}/{tag}" for model, tag in library.list_pretrained()]
    assert [each.address for each in published] == names
    assert all((each.config is None) == bool(each.refused) for each in published)


SIZES = {"dim", "depth", "patch", "resolution", "heads", "hidden", "stages", "width", "joint", "context", "vocabulary"}


def features_of(config):
    """{(tower, feature, value)}: a config without its sizes."""
    towers = {"image": config.image} | ({"text": config.text} if config.text else {})
    more = ("image_projection", "text_projection", "image_bias", "logit_bias")
    found = {(tower, name, str(value)) for tower, part in towers.items() for name, value in vars(part).items()}
    return {each for each in found if each[1] not in SIZES} | {("", name, str(getattr(config, name))) for name in more}


def without_sizes(value):
    """A value of a feature without the sizes in it, which are in the tensors, and a tokenizer's address."""
    return re.sub(r"(heads|hidden|reference)=\d+|timm/\S+", "", value)


def size_of(each):
    return each.config.image.dim * each.config.image.depth


def test_the_smallest_with_each_feature_has_the_tensors_of_its_module(published):
    """Models of timm and open_clip; --cases full: each set of features. test_named.py has the named backbones."""
    groups = {}
    for each in published:
        if each.config is not None:
            library = each.address.partition(":")[0]
            groups.setdefault((library, each.config.image.kind, *sorted(features_of(each.config))), []).append(each)
    assert len(groups) > 40
    smallest = sorted((min(group, key=size_of) for group in groups.values()), key=size_of)
    seen = set()
    for each in smallest:
        address, config = each.address, each.config
        group = address.partition(":")[0], config.image.kind
        found = {(*group, tower, name, without_sizes(value)) for tower, name, value in features_of(config)}
        if found <= seen and not FULL:
            continue
        seen |= found
        try:
            assert_same(library_module(address), config)
        except AssertionError as error:
            raise AssertionError(address) from error


def test_the_page_has_the_counts(published):
    for table in (list_backbones.counts_table(published), list_backbones.refused_table(published)):
        assert "\n".join(table) in PAGE
