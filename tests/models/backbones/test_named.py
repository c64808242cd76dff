"""The named backbones of other libraries: their files, and the registries that their addresses are from."""

import re
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import yaml

from models.backbones.named import NAMED
from models.weights.find import open_clip_entry, timm_entry
from utils.config.addresses import problem_of

FILES = Path(__file__).resolve().parents[3] / "configs" / "backbone"
ON_HUB = {  # imageomics publishes these itself, so no registry has them
    "bioclip_vit_b16": "hf-hub:imageomics/bioclip",
    "bioclip2_vit_l14": "hf-hub:imageomics/bioclip-2",
}
SIZES = {  # name's end: width, depth, patch of the image tower in the registry
    "vit_t16": (192, 12, 16),
    "vit_s16": (384, 12, 16),
    "vit_b16": (768, 12, 16),
    "vit_l16": (1024, 24, 16),
    "vit_s14": (384, 12, 14),
    "vit_b14": (768, 12, 14),
    "vit_l14": (1024, 24, 14),
    "vit_h14": (1280, 32, 14),
    "vit_so400m14": (1152, 27, 14),
}


def lines_of(name):
    return (FILES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()


def timm_model(name):
    """timm's own module, on the meta device."""
    with torch.device("meta"):
        return timm.create_model(name)


def tower_size(address):
    """Width, depth and patch of the image tower that the registry has for an address."""
    scheme, _, model = address.partition(":")
    vision = open_clip.get_model_config(model.partition("/")[0])["vision_cfg"] if scheme == "open_clip" else {}
    if "layers" in vision:  # open_clip's own module
        return vision["width"], vision["layers"], vision["patch_size"]
    tower = timm_model(vision.get("timm_model_name", model))
    return tower.embed_dim, len(tower.blocks), tower.patch_embed.patch_size[0]


@pytest.mark.parametrize("name", NAMED)
def test_file_has_source_licence_and_little_else(name):
    row, lines = NAMED[name], lines_of(name)
    assert 4 <= len(lines) <= 8
    assert [line for line in lines if line.startswith("# Licence:")] == [f"# Licence: {row.licence}"]
    assert [line for line in lines if line.startswith("# Source:")] == [f"# Source: {row.address}"]
    assert re.search(r"arXiv \d{4}\.\d{5}\)", lines[0])
    assert any(f"-b {name} " in line for line in lines)
    image_alone = row.address.startswith("timm:")
    keys = yaml.safe_load("\n".join(lines))
    assert keys == {"backbone": name} | ({"classifier_init": "class_mean"} if image_alone else {})


@pytest.mark.parametrize("name", [name for name in NAMED if name not in ON_HUB])
def test_address_is_in_the_registry(name):
    row = NAMED[name]
    scheme, _, model = row.address.partition(":")
    if scheme == "timm":
        assert model in timm.list_pretrained()
        assert timm_entry(model)["license"] == row.licence
    else:
        assert tuple(model.split("/")) in open_clip.list_pretrained()
        open_clip_entry(model)


def test_every_name_of_the_registries_has_an_address():
    of_timm = [f"timm:{name}" for name in timm.list_pretrained()]
    of_open_clip = [f"open_clip:{model}/{tag}" for model, tag in open_clip.list_pretrained()]
    assert len(of_timm) > 1000
    assert [address for address in (*of_timm, *of_open_clip) if problem_of(address)] == []


def test_addresses_outside_the_registries():
    assert {name: NAMED[name].address for name in ON_HUB} == ON_HUB
    assert {row.address.partition(":")[0] for name, row in NAMED.items() if name not in ON_HUB} == {"timm", "open_clip"}


def test_no_two_names_have_one_address():
    assert len({row.address for row in NAMED.values()}) == len(NAMED)


@pytest.mark.parametrize("name", [name for name in NAMED if name not in ON_HUB])
def test_name_has_the_size_of_its_tower(name):
    expected = next(size for end, size in SIZES.items() if name.endswith(end))
    assert tower_size(NAMED[name].address) == expected


@pytest.mark.parametrize("name", [name for name in NAMED if NAMED[name].address.startswith("timm:")])
def test_registers_are_in_the_name(name):
    registers = timm_model(NAMED[name].address.removeprefix("timm:")).num_prefix_tokens - 1
    assert registers == (4 if "_reg_" in name or name.startswith("dinov3") else 0)


def test_bioclip_may_have_seen_the_test_images_of_inat2018():
    assert {name: row.seen for name, row in NAMED.items() if row.seen} == dict.fromkeys(ON_HUB, "inat2018")
