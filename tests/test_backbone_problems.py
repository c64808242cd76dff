"""Unavailable backbones: status 2, one sentence, nothing written, and no needless requests for weights."""

import json
from pathlib import Path

import published
import pytest
from helpers import assert_one_sentence

import main as cli

NAME = "test/name"
QUICK = ("num_epochs", 1, "num_workers", 0)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return published.build_hub(tmp_path, monkeypatch)


@pytest.fixture
def refuse(capsys, monkeypatch):
    """refuse(BACKBONE, options...): checks that the command fails with the standard error, without waiting."""

    def sleep(seconds):
        raise AssertionError(f"waits {seconds} seconds for another attempt")

    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", sleep)

    def refuse(backbone, *options, method="lp"):
        command = ["-d", "digits_lt", "-b", backbone, "-m", method, *map(str, (*QUICK, *options))]
        assert cli.main(command) == 2
        assert_one_sentence(capsys.readouterr().err)
        assert not Path("output").exists()

    return refuse


def files(name, **changes):
    """The files of a small repository, with changed values at names such as "model_cfg.vision_cfg"."""
    found = dict(published.repository(name)[1])
    json_file = next(file for file in found if file in (published.OPEN_CLIP_JSON, published.TIMM_JSON))
    content = json.loads(found[json_file])
    for path, values in changes.items():
        section = content
        for key in path.split("__") if path != "top" else ():
            section = section[key]
        section.update(values)
    return found | {json_file: json.dumps(content).encode()}


def weights_in(asked):
    return [path for path in asked if path.endswith((".safetensors", ".bin"))]


# ---- the hub refuses, or does not answer ----

ADDRESSES = ["hf-hub:test/name", "timm:vit_base_patch16_dinov3.lvd1689m", "open_clip:ViT-B-16-SigLIP2/webli"]
NAMES = ["dinov3_vit_b16", "bioclip2_vit_l14", "laion2b_vit_b16"]


@pytest.mark.parametrize("backbone", ADDRESSES + NAMES)
def test_a_gated_repository(backbone, hub, refuse):
    with hub({}, code="GatedRepo", missing=401):
        refuse(backbone, "classifier_init", "None")


@pytest.mark.parametrize("backbone", ADDRESSES + NAMES)
def test_no_network(backbone, hub, refuse):
    with hub({}):
        pass  # off from here on
    refuse(backbone, "classifier_init", "None")


# ---- repositories that lack a file ----


def test_a_repository_without_a_description(hub, refuse):
    with hub({NAME: {"model.safetensors": b"x"}}) as asked:
        refuse(f"hf-hub:{NAME}")
    assert not weights_in(asked)


@pytest.mark.parametrize("name", ["dinov3", "siglip2"])
def test_a_repository_without_weights(name, hub, refuse):
    with hub({NAME: {file: content for file, content in files(name).items() if file.endswith(".json")}}):
        refuse(f"hf-hub:{NAME}", "classifier_init", "None")


@pytest.mark.parametrize(("method", "options"), [("zs", ()), ("lift+", ()), ("coop", ())])
def test_a_missing_tokenizer(method, options, hub, refuse):
    repository = {file: content for file, content in files("siglip2").items() if not file.startswith("tokenizer")}
    with hub({NAME: repository, "test/siglip2": {}}):
        refuse(f"hf-hub:{NAME}", *options, method=method)


def test_a_missing_tokenizer_does_not_matter_where_no_text_is_read(hub, capsys):
    repository = {file: content for file, content in files("siglip2").items() if not file.startswith("tokenizer")}
    command = ["-d", "digits_lt", "-b", f"hf-hub:{NAME}", "-m", "lp", "classifier_init", "class_mean"]
    with hub({NAME: repository, "test/siglip2": {}}) as asked:
        assert cli.main([*command, *map(str, QUICK)]) == 0
    assert capsys.readouterr().err == ""
    assert not [path for path in asked if "tokenizer" in path]


# ---- descriptions ----

VISION = "model_cfg__vision_cfg"
DESCRIPTIONS = {  # the family that is changed, and the changes
    "an architecture that the towers lack": ("augreg", {"top": {"architecture": "convnext_base", "model_args": {}}}),
    "blocks that the towers lack": ("augreg", {"top": {"architecture": "vit_base_patch16_rpn_224"}}),
    "an architecture of a later timm": ("augreg", {"top": {"architecture": "vit_base_patch16_dinov9"}}),
    "options that timm does not take": ("augreg", {"model_args": {"number_of_heads": 2}}),
    "an option of another type": ("augreg", {"model_args": {"depth": "two"}}),
    "heads that do not divide": ("augreg", {"model_args": {"num_heads": 3}}),
    "a distilled tower": ("augreg", {"top": {"architecture": "deit_tiny_distilled_patch16_224"}}),
    "no architecture": ("augreg", {"top": {"architecture": None}}),
    "a text tower of transformers": ("laion", {"model_cfg__text_cfg": {"hf_model_name": "xlm-roberta-base"}}),
    "an unknown key of the model": ("laion", {"model_cfg": {"new_key": 1}}),
    "an unknown key of the image tower": ("laion", {VISION: {"new_key": 1}}),
    "an unknown key of the text tower": ("laion", {"model_cfg__text_cfg": {"new_key": {"a": 1}}}),
    "a trunk of a later timm": ("siglip2", {VISION: {"timm_model_name": "vit_later"}}),
    "a trunk that the towers lack": ("siglip2", {VISION: {"timm_model_name": "convnext_base"}}),
    "a resize rule": ("laion", {"preprocess_cfg": {"resize_mode": "longest"}}),
    "a mean of 0 to 255": ("laion", {"preprocess_cfg": {"mean": [122, 116, 104]}}),
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_a_description_that_cannot_be_used_is_refused_before_the_weights(case, hub, refuse):
    name, changes = DESCRIPTIONS[case]
    with hub({NAME: files(name, **changes)}) as asked:
        refuse(f"hf-hub:{NAME}", "classifier_init", "None")
    assert not weights_in(asked)


@pytest.mark.parametrize("file", [published.OPEN_CLIP_JSON, published.TIMM_JSON])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model_cfg": {}}', b"<html>"])
def test_a_damaged_description(content, file, hub, refuse):
    with hub({NAME: {file: content, "model.safetensors": b"x", "open_clip_model.safetensors": b"x"}}) as asked:
        refuse(f"hf-hub:{NAME}", "classifier_init", "None")
    assert not weights_in(asked)


def test_an_image_tower_alone_is_refused_before_its_weights(hub, refuse):
    """As the head would start from the class names."""
    with hub({NAME: files("dinov3")}) as asked:
        refuse(f"hf-hub:{NAME}")
        refuse(f"hf-hub:{NAME}", method="zs")
    assert not weights_in(asked)


@pytest.mark.parametrize("backbone", ["dinov3_vit_b16", "in21k_vit_b16", "timm:vit_base_patch14_dinov2.lvd142m"])
def test_zero_shot_without_a_text_tower_is_refused_before_a_download(backbone, hub, refuse):
    with hub({}) as asked:
        refuse(backbone, method="zs")
    assert not asked


@pytest.mark.parametrize("backbone", ["timm:convnext_base.fb_in22k_ft_in1k", "open_clip:ViTamin-B/datacomp1b"])
def test_an_architecture_of_the_registries_that_the_towers_lack(backbone, hub, refuse):
    with hub({}) as asked:
        refuse(backbone, "classifier_init", "None")
    assert not asked


@pytest.mark.parametrize("content", [b"", b"x", b'{"a": 1}'])
def test_damaged_weights(content, hub, refuse):
    with hub({NAME: files("dinov3") | {"model.safetensors": content}}):
        refuse(f"hf-hub:{NAME}", "classifier_init", "None")


def test_weights_of_another_description(hub, refuse):
    with hub({NAME: files("dinov3") | {"model.safetensors": files("augreg")["model.safetensors"]}}):
        refuse(f"hf-hub:{NAME}", "classifier_init", "None")
