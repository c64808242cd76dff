"""All published weights of timm and open_clip: each runs, or leads to an error that names a feature."""

import functools
import gc
import sys
from pathlib import Path

import open_clip as library
import pytest
import timm
from full_size import assert_same, library_module, without_first_values

from models.backbones.families import open_clip, timm_modules, timm_resnet
from models.weights import descriptions

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts"))

import list_backbones  # noqa: E402  (needs the path)

PAGE = (ROOT / "docs/backbones.md").read_text()


@pytest.fixture(scope="module")
def published():
    """The result for every published weight file. A module shared by several of them is built once."""
    modules = {}

    def build_once(name, kinds, options):
        key = name, str(options)
        if key not in modules:
            modules[key] = timm_modules.build_module(name, kinds, options)
        return modules[key]

    with pytest.MonkeyPatch.context() as patch, without_first_values():
        patch.setattr(descriptions, "build_module", build_once)
        patch.setattr(open_clip, "build_module", build_once)
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
    """A config without its sizes."""
    towers = [config.image, *([config.text] if config.text else [])]
    found = [tuple((name, value) for name, value in vars(tower).items() if name not in SIZES) for tower in towers]
    return str((found, config.image_projection, config.text_projection, config.image_bias, config.logit_bias))


def test_the_smallest_with_each_set_of_features_has_the_tensors_of_its_module(published):
    """Named backbones are compared one by one, in test_named.py."""
    smallest = {}
    for each in published:
        if each.config is not None:
            smallest.setdefault((each.address.partition(":")[0], features_of(each.config)), []).append(each)
    assert len(smallest) > 40
    for group in smallest.values():
        each = min(group, key=lambda each: each.config.image.dim * each.config.image.depth)
        address, config = each.address, each.config
        try:
            assert_same(library_module(address), config)
        except AssertionError as error:
            raise AssertionError(address) from error


def test_the_page_has_the_counts(published):
    for table in (list_backbones.counts_table(published), list_backbones.refused_table(published)):
        assert "\n".join(table) in PAGE
