"""The named backbones of other libraries: their files, and the registries of their addresses."""

import functools
import json
import re
from pathlib import Path

import open_clip
import pytest
import timm
import yaml
from cases import FULL
from full_size import assert_same, library_module, quick_meta, without_first_values
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from timm.data import resolve_data_config

from models.backbones import BACKBONES
from models.backbones.named import NAMED
from models.weights import descriptions
from models.weights.descriptions import describe, read
from models.weights.find import OPEN_CLIP_JSON, open_clip_entry, timm_entry
from utils.config.addresses import problem_of

FILES = Path(__file__).resolve().parents[3] / "configs" / "backbone"
PLAIN = {"bioclip_vit_b16": "ViT-B-16", "bioclip2_vit_l14": "ViT-L-14"}  # open_clip's models of the two below
ON_HUB = {  # published by imageomics itself, so in no registry
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


@functools.cache
def describe_name(name):
    """The description of a named backbone, for all tests of it."""
    with without_first_values():
        return descriptions.describe_name(name)


def lines_of(name):
    return (FILES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()


@functools.cache
def timm_model(name):
    """timm's own module, on the meta device."""
    with quick_meta():
        return timm.create_model(name)


def tower_size(address):
    """Width, depth and patch of the image tower in the registry at an address."""
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


# ---- the description of each name against its library's own full-size module ----

REGISTERED = [name for name in BACKBONES if name != "clip_tiny" and name not in ON_HUB]
OPENAI = re.compile(r"^clip:(.+)")


def in_registry(name):
    """The address of a named backbone in timm's or open_clip's registry."""
    return OPENAI.sub(r"open_clip:\1/openai", BACKBONES[name].address)


OWN = [name for name in REGISTERED if BACKBONES[name].config]  # described here, the others by their library
# the first of each family: test_name_has_the_size_of_its_tower and test_registries.py have the others
COMPARED = [*OWN, *{name.partition("_vit_")[0]: name for name in reversed(REGISTERED) if name not in OWN}.values()]


@pytest.mark.parametrize("name", REGISTERED if FULL else COMPARED)
def test_full_size_module_is_the_librarys(name):
    config = describe_name(name).config
    module = library_module(in_registry(name))
    if isinstance(module, timm.models.Eva) and NAMED[name].class_token:  # DINOv3: the mean is timm's own choice
        assert module.global_pool == "avg"
    assert_same(module, config)


@pytest.mark.parametrize("name", ON_HUB)
def test_plain_model_stands_for_a_repository_of_the_hub(name, tmp_path):
    """Their open_clip_config.json is in no registry, so one of the same size is read."""
    model = PLAIN[name]
    assert tower_size(f"open_clip:{model}") == next(size for end, size in SIZES.items() if name.endswith(end))
    content = {"model_cfg": open_clip.get_model_config(model), "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (tmp_path / OPEN_CLIP_JSON).write_text(json.dumps(content))
    known = read(tmp_path / OPEN_CLIP_JSON, ON_HUB[name])
    assert (known.mean, known.std) == ((0.5,) * 3, (0.25,) * 3)
    assert known.config.activation == "gelu"
    assert_same(library_module(f"open_clip:{model}/"), known.config)


@pytest.mark.parametrize("name", REGISTERED)
def test_images_are_prepared_as_the_registry_says(name):
    known = describe_name(name)
    scheme, _, model = in_registry(name).partition(":")
    if scheme == "timm":
        expected = resolve_data_config(pretrained_cfg=timm_entry(model))
        assert expected["input_size"] == (3, known.config.image.resolution, known.config.image.resolution)
        resize = {"center": "shortest", "border": "shortest"}.get(expected["crop_mode"], expected["crop_mode"])
    else:
        model, tag = model.split("/")
        expected = merge_preprocess_dict(PreprocessCfg(), open_clip.get_pretrained_cfg(model, tag))
        assert open_clip.get_model_config(model)["vision_cfg"]["image_size"] == known.config.image.resolution
        resize = expected["resize_mode"]
    assert (known.mean, known.std) == (tuple(expected["mean"]), tuple(expected["std"]))
    assert (known.interpolation or "bicubic", known.resize or "shortest") == (expected["interpolation"], resize)


tokenizer_of = functools.cache(open_clip.get_tokenizer)


@pytest.mark.parametrize("name", [name for name in REGISTERED if "clip:" in in_registry(name)])
def test_texts_are_prepared_as_the_registry_says(name):
    text = describe_name(name).config.text
    model = in_registry(name).partition(":")[2].partition("/")[0]
    given = open_clip.get_model_config(model)["text_cfg"]
    assert text.tokenizer == given.get("hf_tokenizer_name", "")
    if text.tokenizer:
        assert (text.context, text.clean) == (given["context_length"], given["tokenizer_kwargs"]["clean"])
    else:
        tokenizer = tokenizer_of(model)
        assert (text.context, text.vocabulary) == (tokenizer.context_length, tokenizer.vocab_size)


@pytest.mark.parametrize("name", [name for name in NAMED if name not in ON_HUB])
def test_licence_and_resolution_of_the_description(name):
    known = describe_name(name)
    assert known.licence == NAMED[name].licence
    assert known.resolution == (224 if name.startswith("dinov2") else None)


def test_a_name_chooses_the_class_token_of_dinov3():
    name = "dinov3_vit_b16"
    assert describe(NAMED[name].address).config.image.pooling.kind == "mean"
    assert describe_name(name).config.image.pooling.kind == "token"
