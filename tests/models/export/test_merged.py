"""Merged towers: methods folded into plain weights, with the names of timm and open_clip, loaded by their modules."""

import copy
import dataclasses
import json

import open_clip
import pytest
import timm
import torch
from family_models import (
    FAMILIES,
    NAMES,
    OPEN_CLIP,
    normalised,
    pair,
    projected_images,
    random_pixels,
    small_trunks,
    timm_model,
)
from helpers import (
    assert_near,
    clip_pair,
    clip_resnet_pair,
    normal_images,
    randomize,
    refused,
    resnet,
    resnet_pair,
    vit_pair,
)
from safetensors.torch import load_file

from models import Model, peft
from models.backbones.tokenizer import class_prompts
from models.export import merged
from models.export.comparison import Deviation, compare_features
from models.peft import METHODS
from models.peft.folding import folded
from models.weights.descriptions import Description, describe_name, describe_open_clip, describe_timm
from models.weights.load import load_backbone
from models.weights.naming import convert_state_dict, invert
from models.weights.upstream import upstream_of
from utils.errors import ModelError

FOLDED = {
    "fft": {},
    "bitfit": {},
    "ln_tuning": {},
    "lora": {"dim": 2},
    "lora_mlp": {"dim": 2},
    "ssf": {},
    "ssf_ln": {},
    "aft": {"ratio": 0.5},
}
REFUSED = {"pt": {"len": 2}, "adapter": {"dim": 2}, "adaptformer": {"dim": 2}}
ALL = [*([name] for name in FOLDED), list(FOLDED)]  # each alone, then all at once
WITHOUT_BIASES = ("DINOv3", "DINOv3, gated", "EVA-02, tiny", "EVA-02, base", "EVA02-CLIP's tower")
SMALL_PAIRS = {"clip_vit": clip_pair, "clip_rn": clip_resnet_pair, "vit": vit_pair, "rn": resnet_pair}


def trained(backbone, methods, head="CosineClassifier", **more):
    """A model of a copy of the backbone with these methods; trainable tensors are far from their initial values."""
    torch.manual_seed(0)
    model = Model.create(copy.deepcopy(backbone), NAMES, head, methods, head_init=None, **more)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def description(name):
    """The description of a family of family_models, as of a file with a JSON in its folder."""
    if name in OPEN_CLIP:
        cfg = OPEN_CLIP[name]
        return describe_open_clip(cfg, {}, "the test")
    architecture, sizes = FAMILIES[name]
    return describe_timm(architecture, {}, "the test", timm_model(architecture, sizes)[1])


# ---- formulas ----


@pytest.mark.parametrize("methods", ALL, ids="+".join)
@pytest.mark.parametrize("name", ["OpenAI", "augreg", "DINOv2, gated", "rotation, mean"])
@torch.no_grad()
def test_a_folded_tower_computes_the_same_features(name, methods):
    backbone = pair(name).ours
    model = trained(backbone, {method: FOLDED[method] for method in methods})
    plain = folded(model.tower)
    images = normal_images(3, backbone.image.resolution)
    expected = model.tower(images)
    assert_near(plain(images), expected)
    assert {key: value.shape for key, value in plain.state_dict().items()} == {
        key: value.shape for key, value in backbone.image.state_dict().items()
    }
    assert (expected - backbone.image(images)).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize("method", ["fft", "bitfit", "bn_tuning", "ssf"])
@torch.no_grad()
def test_a_folded_resnet_computes_the_same_features(method):
    tower = resnet((1, 1, 1, 1), 8, 64, joint=16)
    peft.attach(tower, {method: {}}, num_classes=3)
    randomize(tower).eval()
    images = normal_images(2, 64)
    plain = folded(tower)
    assert_near(plain(images), tower(images))
    assert {name.partition(".")[0] for name in plain.state_dict()} == {"net"}


def test_every_method_is_folded_or_refused():
    of_towers = {name for name, method in METHODS.items() if {"transformer", "resnet"} & {*method.targets}}
    assert of_towers == {*FOLDED, *REFUSED, "bn_tuning"}
    assert {name for name, method in METHODS.items() if method.folds} == {*FOLDED, "bn_tuning"}


@pytest.mark.parametrize("method", REFUSED)
def test_methods_beyond_weights_are_refused(method):
    model = trained(pair("augreg").ours, {"lora": {"dim": 2}, method: REFUSED[method]})
    with refused(ModelError, kind="unmergeable_method", key=method):
        folded(model.tower)


def test_ssf_of_a_mean_is_refused():
    tower = resnet((1, 1, 1, 1), 8, 64)
    peft.attach(tower, {"ssf": {}}, num_classes=3)
    with refused(ModelError, kind="unmergeable_method", key="ssf"):
        folded(tower)


# ---- names ----


@pytest.mark.parametrize("name", [*FAMILIES, *OPEN_CLIP])
@torch.no_grad()
def test_the_inverse_of_a_conversion_loads_into_the_other_librarys_module(name):
    theirs, ours, _ = pair(name)
    native = ours.state_dict()
    module = copy.deepcopy(theirs)
    randomize(module, seed=1)  # so that only loaded values lead to these features
    state = invert(native, module.state_dict(), name)
    again = convert_state_dict(state)
    assert again.keys() == native.keys()
    assert all(torch.equal(again[key], native[key]) for key in native)
    module.load_state_dict(state, strict=True)
    images = normal_images(2, ours.image.resolution)
    encode = module.encode_image if name in OPEN_CLIP else module
    assert_near(encode(images), projected_images(ours, images) if name in OPEN_CLIP else ours.image(images))


@pytest.mark.parametrize("family", SMALL_PAIRS)
@torch.no_grad()
def test_the_inverse_of_a_conversion_is_the_file(family, tmp_path):
    """These modules have neither LayerScale nor absent biases, so every tensor is the published one."""
    theirs, ours = SMALL_PAIRS[family](tmp_path)
    expected = theirs.state_dict()
    blank = {key: torch.zeros_like(value) for key, value in expected.items()}
    state = invert(ours.state_dict(), blank, family)
    for key, value in expected.items():
        converted = not key.startswith(("head.", "fc.")) and not key.endswith("num_batches_tracked")
        assert torch.equal(state[key], value if converted else blank[key]), key


@pytest.mark.parametrize("name", WITHOUT_BIASES)
def test_biases_that_the_module_lacks_are_refused(name):
    """SSF shifts the keys, which have no bias in these towers."""
    theirs, ours, _ = pair(name)
    shifted = folded(trained(ours, {"ssf": {}}).tower).state_dict()
    with refused(ModelError, kind="unmergeable_tensors"):
        invert({f"image.{key}": value for key, value in shifted.items()}, theirs.state_dict(), "timm's module")


@pytest.mark.parametrize("name", [*FAMILIES, *OPEN_CLIP])
def test_the_module_of_a_family_is_found_from_its_description(name):
    with small_trunks():
        upstream = upstream_of(pair(name).ours.config, description(name))
        found = upstream.build().state_dict()
    expected = pair(name).theirs.state_dict()
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in expected.items()}


@pytest.mark.parametrize("family", SMALL_PAIRS)
def test_the_module_of_a_plain_form_needs_no_description(family, tmp_path):
    theirs, ours = SMALL_PAIRS[family](tmp_path)
    found, expected = upstream_of(ours.config, Description()).build().state_dict(), theirs.state_dict()
    expected = {key: value for key, value in expected.items() if not key.startswith(("head.", "fc."))}
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in expected.items()}


@pytest.mark.parametrize(
    "name", ["clip_vit_b16", "clip_rn50", "in21k_vit_l16", "in1k_rn101", "siglip2_vit_b16", "dinov3_vit_s16"]
)
def test_named_backbones_have_a_module(name):
    """In full size, without weights; DINOv3 with its class token, DINOv2 and DINOv3 at the run's resolution."""
    known = describe_name(name)
    upstream = upstream_of(known.config, known)
    assert upstream.library == ("open_clip" if known.config.text else "timm")


def test_another_activation_is_another_module():
    """The user's keys go before the library's description, which then is not the backbone's."""
    config, known = pair("OpenAI").ours.config, description("OpenAI")
    image, text = (dataclasses.replace(part, activation="gelu") for part in (config.image, config.text))
    upstream = upstream_of(dataclasses.replace(config, image=image, text=text), known)
    assert (upstream.model["model_cfg"]["quick_gelu"], known.upstream["model_cfg"]["quick_gelu"]) == (False, True)
    with refused(ModelError, kind="no_upstream_model"):
        upstream_of(dataclasses.replace(config, image=image), known)  # of one tower


def test_a_trunk_of_open_clip_at_another_resolution_is_refused():
    with small_trunks(), refused(ModelError, kind="no_upstream_model"):
        upstream_of(pair("SigLIP").other.config, description("SigLIP"))


# ---- the whole export ----


@pytest.mark.parametrize("name", ["augreg", "DINOv2, registers", "SigLIP 2's tower"])
@torch.no_grad()
def test_timm_loads_a_merged_tower(name, tmp_path):
    backbone, known = pair(name).ours, description(name)
    model = trained(backbone, {"lora": {"dim": 2}, "ssf_ln": {}})
    upstream = upstream_of(backbone.config, known)
    about = upstream.content(backbone, "bicubic", "shortest")
    whole = merged.merge(model, backbone)
    merged.write(whole, model.head, upstream, about, torch.float32, tmp_path)
    images = random_pixels(backbone)
    (comparison,) = merged.compare(model, backbone, upstream, tmp_path, images, "fp32")
    assert comparison.require().largest < 1e-5

    # only from the folder: timm's own loader, and this program's
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    expected = model.features(images)
    assert_near(theirs((images / 255 - 0.5) / 0.5), expected)
    ours, _ = load_backbone("vit", str(tmp_path / "model.safetensors"), resolution=backbone.image.resolution)
    assert_near(ours.image((images / 255 - 0.5) / 0.5), expected)
    head = load_file(tmp_path / "head.safetensors")
    cosine = torch.nn.functional.cosine_similarity(expected[:, None], head["weight"][None], dim=-1)
    assert_near(head["scale"] * cosine, model(images))


@pytest.mark.parametrize("text_methods", [{}, {"lora": {"dim": 2}, "ssf": {}}], ids=["frozen texts", "trained texts"])
@torch.no_grad()
def test_open_clip_loads_a_merged_clip(text_methods, tmp_path):
    """CLIP's own head: the projections and the text tower train, too, and the zero-shot logits are those of the run."""
    backbone = pair("OpenAI").ours
    methods = {"aft": {"ratio": 0.5}, "proj_tuning": {}}
    model = trained(backbone, methods, None, text_methods=text_methods)
    upstream = upstream_of(backbone.config, description("OpenAI"))
    about = upstream.content(backbone, "bicubic", "shortest")
    merged.write(merged.merge(model, backbone), model.head, upstream, about, torch.float32, tmp_path)
    images = random_pixels(backbone)
    for comparison in merged.compare(model, backbone, upstream, tmp_path, images, "fp32"):
        assert comparison.require().largest < 1e-5

    theirs = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    logits, _ = theirs.get_logits(normalised(images), backbone.tokenizer(class_prompts(NAMES)))
    expected = model(images)
    assert_near(logits, expected)
    head = load_file(tmp_path / "head.safetensors")
    features = theirs.encode_image(normalised(images), normalize=True)
    assert_near(head["scale"] * features @ head["weight"].T + head["bias"], expected)
    content = json.loads((tmp_path / "open_clip_config.json").read_text())
    assert content["preprocess_cfg"]["std"] == [0.25] * 3


@pytest.mark.parametrize("name", ["LayerScale", "SigLIP 2", "PE-Core", "EVA02-CLIP"])
@torch.no_grad()
def test_open_clip_loads_merged_towers_of_every_kind(name, tmp_path):
    backbone = pair(name).ours
    model = trained(backbone, {"lora": {"dim": 2}}, None)
    images = random_pixels(backbone)
    with small_trunks():
        upstream = upstream_of(backbone.config, description(name))
        about = upstream.content(backbone, "bicubic", "squash")
        merged.write(merged.merge(model, backbone), model.head, upstream, about, torch.float16, tmp_path)
        (comparison,) = merged.compare(model, backbone, upstream, tmp_path, images, "fp16")
        theirs = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    assert 1e-5 < comparison.require().largest < 5e-3  # as fp16 has it
    logits, _ = theirs.get_logits(normalised(images), backbone.tokenizer(class_prompts(NAMES)))
    assert_near(logits, model(images), 5e-3)


@pytest.mark.parametrize("method", ["coop", "clip_adapter"])
def test_methods_of_clips_head_beyond_weights_are_refused(method):
    backbone = pair("OpenAI").ours
    with refused(ModelError, kind="unmergeable_method", key=method):
        merged.merge(trained(backbone, {method: {}}, None), backbone)


def test_other_features_are_a_deviation():
    features = torch.eye(3)
    assert compare_features("features", features, features, "fp32").require().largest == 0
    with pytest.raises(Deviation, match="differ by up to 1 from"):
        compare_features("features", features, features.flip(0), "fp32").require()
    with pytest.raises(Deviation):
        compare_features("features", features * torch.nan, features, "fp32").require()
