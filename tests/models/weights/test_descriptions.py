"""Properties that tensors do not determine: activation, heads, mean and std, against open_clip's and timm's modules."""

import copy
import json
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch
from helpers import (
    HALF,
    assert_near,
    assert_one_sentence,
    copied,
    normal_images,
    open_clip_resnet,
    randomize,
    refused,
    train,
    weights_of,
)
from safetensors.torch import save_file

import main as cli
from models.backbones import BACKBONES
from models.backbones.families.clip import clip_vit
from models.backbones.tokenizer import tokenize
from models.weights import descriptions
from models.weights import load as loading
from models.weights.descriptions import (
    OPENAI_SHA256,
    Description,
    beside,
    describe,
    describe_backbone,
    describe_open_clip,
    describe_timm,
)
from models.weights.find import open_clip_entry, timm_entry
from models.weights.load import load_backbone
from utils.config.parsing import NORMALISATIONS
from utils.errors import CheckpointError, ModelError

WRONG = json.loads(Path(__file__).with_name("wrong_descriptions.json").read_text(encoding="utf-8"))
CLIP_MEAN, CLIP_STD = NORMALISATIONS["clip"]


def open_clip_config(quick_gelu=False, width=128, head_width=64, text_width=64, text_heads=1):
    """The model_cfg of a small CLIP ViT in open_clip's own terms."""
    vision = {"image_size": 32, "layers": 2, "width": width, "head_width": head_width, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": text_width, "heads": text_heads, "layers": 2}
    return {"embed_dim": 48, "quick_gelu": quick_gelu, "vision_cfg": vision, "text_cfg": text}


def open_clip_model(config):
    """open_clip's model of a model_cfg."""
    return open_clip_model_of(json.dumps(config))


@copied
def open_clip_model_of(text):
    from open_clip.model import CLIP

    config = json.loads(text)
    vision, text = config["vision_cfg"], config["text_cfg"]
    return randomize(CLIP(config["embed_dim"], vision, text, quick_gelu=config["quick_gelu"])).eval()


@pytest.fixture
def save(tmp_path):
    """save(model, content, file) -> the path of a file of its weights, with a JSON of that content in its folder."""

    def save(model, content=None, file="open_clip_config.json"):
        save_file(
            {name: value for name, value in weights_of(model).items() if name != "attn_mask"},
            tmp_path / "w.safetensors",
        )
        if content is not None:
            (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
        return str(tmp_path / "w.safetensors")

    return save


CONFIGS = {
    "gelu": {},
    "quick gelu": {"quick_gelu": True},
    "heads 32 wide": {"head_width": 32},
    "heads 80 wide, as ViT-H": {"width": 160, "head_width": 80},
    "text heads 16 wide": {"text_heads": 4},
}


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_open_clips_json_beside_the_file_gives_open_clips_features(change, save):
    config = open_clip_config(**change)
    theirs = open_clip_model(config)
    path = save(theirs, {"model_cfg": config, "preprocess_cfg": {"mean": HALF, "std": [0.25, 0.5, 0.75]}})
    ours, found = load_backbone("clip_vit", path)
    images = normal_images(3, 32)
    assert_near(ours.image(images) @ ours.image_projection, theirs.encode_image(images))
    tokens = tokenize(["a photo of a cat.", "zero"])
    assert_near(ours.text(tokens) @ ours.text_projection, theirs.encode_text(tokens))
    assert (ours.mean, ours.std) == (HALF, (0.25, 0.5, 0.75))
    assert not found.published
    assert "mean 0.5 0.5 0.5, std 0.25 0.5 0.75" in found.notes[-1]
    activation = "quick_gelu" if config["quick_gelu"] else "gelu"
    assert f"activation {activation}, {ours.config.image.heads} heads" in found.notes[-1]


@torch.no_grad()
def test_keys_go_before_the_description(save):
    config = open_clip_config(quick_gelu=True)
    path = save(open_clip_model(config), {"model_cfg": config})
    ours, _ = load_backbone("clip_vit", path, Description("gelu", heads=4, text_heads=2, mean=HALF, std=HALF))
    config = open_clip_config(head_width=32, text_heads=2)
    theirs = open_clip_model(config)  # the same random weights
    assert_near(ours.image(normal_images(2, 32)) @ ours.image_projection, theirs.encode_image(normal_images(2, 32)))
    assert ours.mean == HALF


def test_a_json_without_preprocessing_means_open_clips_default(save):
    config = open_clip_config()
    ours, _ = load_backbone("clip_vit", save(open_clip_model(config), {"model_cfg": config}))
    assert (ours.mean, ours.std) == (CLIP_MEAN, CLIP_STD)


def test_a_file_without_a_description_is_refused_with_all_that_is_missing(save):
    path = save(open_clip_model(open_clip_config()))
    with refused(ModelError, kind="undetermined", path=path, key="activation"):
        load_backbone("clip_vit", path)
    with refused(ModelError, kind="undetermined", path=path, key="heads"):
        load_backbone("clip_vit", path, Description("gelu", mean=HALF, std=HALF))
    with refused(ModelError, kind="undetermined", path=path, key="mean"):
        load_backbone("clip_vit", path, Description("gelu", heads=2))
    with refused(ModelError, kind="undetermined", path=path, key="std"):
        load_backbone("clip_vit", path, Description("gelu", heads=2, mean=HALF))


def test_a_named_backbone_needs_the_activation_of_another_file(save, monkeypatch):
    """Its heads are those of the name."""
    monkeypatch.setitem(
        BACKBONES, "clip_vit_b16", BACKBONES["clip_vit_b16"]._replace(config=clip_vit(128, 2, 8, 32, 48, 64, 2))
    )
    path = save(open_clip_model(open_clip_config()))
    with refused(ModelError, kind="undetermined", path=path, key="activation"):
        load_backbone("clip_vit_b16", path)
    backbone, found = load_backbone("clip_vit_b16", path, Description("gelu", mean=CLIP_MEAN, std=CLIP_STD))
    assert backbone.config.image.heads == 2
    assert not found.published


@pytest.mark.parametrize("heads, text_heads, key", [(3, None, "heads"), (2, 5, "text_heads")])
def test_heads_that_do_not_divide_the_width(heads, text_heads, key, save):
    given = Description("gelu", heads=heads, text_heads=text_heads, mean=HALF, std=HALF)
    with refused(ModelError, kind="indivisible_heads", key=key):
        load_backbone("clip_vit", save(open_clip_model(open_clip_config())), given)


def _changed(content, changes):
    """A copy of nested dicts, with the values of `changes` at their dotted names."""
    content = copy.deepcopy(content)
    for name, value in changes.items():
        *sections, key = name.split(".")
        section = content
        for each in sections:
            section = section[each]
        section[key] = value
    return content


@pytest.mark.parametrize("case", WRONG, ids=[case["name"] for case in WRONG])
def test_a_description_that_does_not_fit_is_refused_by_its_field(case, save):
    """Another model's sizes, features that the towers lack, and impossible values."""
    content = {"model_cfg": open_clip_config(), "preprocess_cfg": {}}
    path = save(open_clip_model(content["model_cfg"]), _changed(content, case["change"]))
    described = case["kind"] == "description_mismatch"  # found when compared with the weight file
    error_path = path if described else str(Path(path).with_name("open_clip_config.json"))
    with refused(ModelError, kind=case["kind"], key=case["key"], path=error_path):
        load_backbone("clip_vit", path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_cfg": 3}', '{"model_cfg": {"vision_cfg": {}}}'])
def test_a_damaged_description_is_an_error_that_names_it(content, save):
    path = save(open_clip_model(open_clip_config()), content)
    with refused(ModelError, kind="bad_description", path=Path(path).with_name("open_clip_config.json")):
        load_backbone("clip_vit", path)


def test_the_resizing_is_the_descriptions():
    found = describe_open_clip(open_clip_config(), {"resize_mode": "squash", "interpolation": "bilinear"}, "it")
    assert (found.resize, found.interpolation) == ("squash", "bilinear")
    with refused(ModelError, kind="unsupported_feature", key="resize"):
        describe_open_clip(open_clip_config(), {"resize_mode": "longest"}, "it")


def test_a_missing_bias_of_the_logits_is_named(save):
    config = open_clip_config()
    path = save(open_clip_model(config), {"model_cfg": config | {"init_logit_bias": -10}})
    with refused(ModelError, kind="missing_tensors", path=path):
        load_backbone("clip_vit", path)


def test_whole_numbers_may_be_floats(save):
    config = open_clip_config()
    model = open_clip_model(config)
    config["vision_cfg"].update(width=128.0, head_width=64.0)
    config["text_cfg"].update(heads=1.0)
    config = load_backbone("clip_vit", save(model, {"model_cfg": config}))[0].config
    assert (type(config.image.heads), type(config.text_heads)) == (int, int)


@torch.no_grad()
def test_a_square_may_have_two_sides(save):
    described = open_clip_config(quick_gelu=True)
    described["vision_cfg"] |= {"image_size": [32, 32], "patch_size": [8, 8]}
    theirs = open_clip_model(described)
    path = save(theirs, {"model_cfg": described})
    ours, _ = load_backbone("clip_vit", path)
    images = normal_images(2, 32)
    assert_near(ours.image(images) @ ours.image_projection, theirs.encode_image(images))
    described["vision_cfg"]["image_size"] = [32, 64]
    save(theirs, {"model_cfg": described})
    with refused(ModelError, kind="unsupported_feature", key="image_size"):
        load_backbone("clip_vit", path)


def test_another_resnets_description_is_refused(tmp_path):
    model = open_clip_resnet()
    save_file({n: v for n, v in weights_of(model).items() if n != "attn_mask"}, tmp_path / "w.safetensors")
    vision = {"image_size": 96, "layers": [3, 4, 6, 3], "width": 8, "patch_size": None}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    content = {"model_cfg": {"embed_dim": 48, "vision_cfg": vision, "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    with refused(ModelError, kind="description_mismatch", key="stages"):
        load_backbone("clip_rn", str(tmp_path / "w.safetensors"))


def test_features_of_another_activation_are_not_taken_from_the_cache(save, tmp_path, monkeypatch):
    from models import features

    monkeypatch.setattr(features, "LEAST_WORK", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    options = ["weights", save(open_clip_model(open_clip_config())), "mean", "half", "num_workers", "0"]
    logits = []
    for number, given in enumerate((("gelu", "2"), ("quick_gelu", "2"), ("gelu", "4"), ("gelu", "2"))):
        own = ["activation", given[0], "heads", given[1], "save_logits", "True", "output_dir", str(number)]
        assert cli.main(["-d", "digits_lt", "-b", "clip_vit", "-m", "zs", *options, *own]) == 0
        logits.append(np.load(tmp_path / f"output/{number}/logits_test.npz")["logits"])
    assert not np.allclose(logits[0], logits[1]) and not np.allclose(logits[0], logits[2])
    assert np.array_equal(logits[0], logits[3])


# ---- registries ----


def test_openais_checksums_are_open_clips():
    import open_clip

    theirs = {}
    for model, tag in open_clip.list_pretrained():
        if tag == "openai" and not model.endswith("-quickgelu"):
            theirs[open_clip.get_pretrained_cfg(model, tag)["url"].split("/")[-2]] = f"clip:{model}"
    assert theirs == OPENAI_SHA256


@pytest.mark.parametrize(
    "name, activation, heads, text_heads, mean",
    [
        ("ViT-L-14/laion2b_s32b_b82k", "gelu", 16, 12, HALF),
        ("ViT-B-16/datacomp_xl_s13b_b90k", "gelu", 12, 8, CLIP_MEAN),
        ("ViT-B-16/dfn2b", "quick_gelu", 12, 8, CLIP_MEAN),
        ("ViT-L-14/dfn2b_s39b", "gelu", 16, 12, CLIP_MEAN),
        ("ViT-B-16-quickgelu/metaclip_400m", "quick_gelu", 12, 8, CLIP_MEAN),
        ("ViT-H-14/laion2b_s32b_b79k", "gelu", 16, 16, CLIP_MEAN),
        ("RN50/cc12m", "quick_gelu", None, 8, CLIP_MEAN),
    ],
)
def test_open_clips_registry(name, activation, heads, text_heads, mean, monkeypatch):
    """As load_backbone reads it, before any download."""
    found = describe(f"open_clip:{name}")
    config = found.config
    assert (config.activation, config.image.heads, config.text_heads) == (activation, heads, text_heads)
    assert found.mean == mean


@pytest.mark.parametrize(
    "name, key",
    [
        ("coca_ViT-B-32/laion2b_s13b_b90k", "multimodal_cfg"),
        ("ViT-H-14-worldwide/metaclip2_worldwide", "text_cfg.pool_type"),
        ("convnext_base/laion400m_s13b_b51k", None),
        ("EVA02-E-14/laion2b_s4b_b115k", None),
    ],
)
def test_features_that_the_towers_lack_are_refused_before_a_download(name, key, monkeypatch):
    monkeypatch.setattr(loading, "find_weights", None)
    with refused(ModelError, kind="unsupported_feature", key=key):
        load_backbone("clip_vit", f"open_clip:{name}")


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-16/no_tag", "no-model/openai", "", "hf-hub:laion/x"])
def test_unknown_weights_of_open_clip(name):
    with refused(ModelError, kind="unknown_weights", key="weights"):
        open_clip_entry(name)


def test_a_model_of_timm_without_a_tag_lists_its_tags():
    with refused(ModelError, kind="no_tag", key="backbone"):
        describe_backbone("timm:vit_tiny_patch16_224")


def test_a_misspelt_address_names_the_near_one():
    with refused(ModelError, kind="unknown_weights", key="weights"):
        describe("timm:vit_bse_patch14_dinov2.lvd142m")
    with refused(ModelError, kind="unknown_weights", key="weights"):
        describe("open_clip:ViT-B-16-SigLIP2/weblii")


def test_the_json_beside_a_file_describes_it_where_the_hub_cannot_be_asked(save, monkeypatch):
    def offline(address):
        raise ModelError("no network", kind="download_failed")

    monkeypatch.setattr(descriptions, "find_description", offline)
    config = open_clip_config()
    path = save(open_clip_model(config), {"model_cfg": config})
    ours, _ = load_backbone("bioclip_vit_b16", path)
    assert ours.config.image.dim == 128
    Path(path).with_name("open_clip_config.json").unlink()
    with refused(ModelError, kind="download_failed"):
        load_backbone("bioclip_vit_b16", path)


@pytest.mark.parametrize(
    "name, heads, mean",
    [
        ("vit_small_patch16_224.dino", 6, NORMALISATIONS["imagenet"][0]),
        ("vit_huge_patch14_224.orig_in21k", 16, HALF),
        ("vit_base_patch16_224.mae", 12, NORMALISATIONS["imagenet"][0]),
        ("resnet50.a1_in1k", None, NORMALISATIONS["imagenet"][0]),
    ],
)
def test_timms_registry(name, heads, mean):
    found = describe_timm(name, timm_entry(name), f"timm:{name}")
    image = found.config.image
    assert (image.activation, image.heads, found.mean) == ("gelu" if heads else None, heads, mean)
    assert not found.remark


@torch.no_grad()
def test_timms_remark_on_weights_is_logged(save):
    import timm

    name = "vit_base_patch16_clip_224"
    assert describe(f"timm:{name}.openai").remark.startswith("natively QuickGELU")
    args = {"img_size": 32, "embed_dim": 64, "depth": 1, "num_heads": 1}
    published = timm_entry(f"{name}.openai") | {"input_size": [3, 32, 32]}
    content = {"architecture": name, "model_args": args, "pretrained_cfg": published}
    _, found = load_backbone("vit", save(timm.create_model(name, **args), content, "config.json"))
    assert "timm remarks: natively QuickGELU" in " ".join(found.notes)


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_rope_mixed_224.naver_in1k",
        "aimv2_large_patch14_224.apple_pt",
        "eva02_enormous_patch14_clip_224.laion2b",
        "vit_base_patch16_rpn_224.sw_in1k",
        "deit_tiny_distilled_patch16_224.fb_in1k",
        "vit_large_patch16_sapiens2.fb",
        "resnetblur50.bt_in1k",
        "resnet50d.ra2_in1k",
        "convnext_base.fb_in22k_ft_in1k",
    ],
)
def test_timms_models_that_the_towers_lack(name):
    with refused(ModelError, kind="unsupported_feature"):
        describe_timm(name, timm_entry(name), f"timm:{name}")


@torch.no_grad()
def test_timms_json_beside_the_file_gives_timms_features(save):
    import timm

    args = {"img_size": 32, "patch_size": 8, "embed_dim": 160, "depth": 2, "num_heads": 2}  # heads 80 wide
    theirs = randomize(timm.create_model("vit_huge_patch14_224", pretrained=False, **args)).eval()
    content = {"architecture": "vit_huge_patch14_224", "model_args": args}
    content |= {"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    ours, _ = load_backbone("vit", save(theirs, content, "config.json"))
    images = normal_images(2, 32)
    assert_near(ours.image(images), theirs.forward_head(theirs.forward_features(images), pre_logits=True))
    assert (ours.mean, ours.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@torch.no_grad()
def test_timms_json_may_have_the_size_of_the_images_among_the_published_values(save):
    """As timm writes it for a model that was fine-tuned with another one."""
    import timm

    args = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "global_pool": "avg"}
    theirs = randomize(timm.create_model("vit_tiny_patch16_224", **args, img_size=48)).eval()
    published = {"input_size": [3, 48, 48], "fixed_input_size": True, "mean": HALF, "std": HALF}
    content = {"architecture": "vit_tiny_patch16_224", "model_args": args, "pretrained_cfg": published}
    ours, _ = load_backbone("vit", save(theirs, content, "config.json"))
    images = normal_images(2, 48)
    assert_near(ours.image(images), theirs.forward_head(theirs.forward_features(images), pre_logits=True))
    assert ours.image.resolution == 48


def test_a_norm_of_a_mean_needs_a_description_with_a_mean(save):
    import timm

    args = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "global_pool": "avg", "img_size": 32}
    theirs = randomize(timm.create_model("vit_tiny_patch16_224", **args)).eval()
    path = save(theirs)
    with refused(ModelError, kind="undetermined", path=path):
        load_backbone("vit", path, Description("gelu", heads=2, mean=HALF, std=HALF))


def test_two_norms_after_the_blocks_are_not_taken_for_one(save):
    import timm

    args = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "global_pool": "avg", "img_size": 32}
    theirs = randomize(timm.create_model("vit_tiny_patch16_224", **args)).eval()
    content = {"architecture": "vit_tiny_patch16_224", "model_args": args}
    path = save(theirs, content | {"pretrained_cfg": {"mean": HALF, "std": HALF}}, "config.json")
    save_file(weights_of(theirs) | {"norm.weight": torch.ones(64), "norm.bias": torch.zeros(64)}, path)
    with refused(ModelError, kind="several_backbones", path=path):
        load_backbone("vit", path)


@pytest.mark.parametrize(("described", "used"), [(28, 28), (518, 224)])
def test_a_file_of_dinov2_is_used_at_the_resolution_of_its_own_description(described, used, save):
    import timm

    args = {"img_size": described}
    theirs = timm.create_model("vit_small_patch14_dinov2", **args)
    path = save(theirs, {"architecture": "vit_small_patch14_dinov2", "model_args": args}, "config.json")
    assert load_backbone("dinov2_vit_s14", path)[0].image.resolution == used


def test_timms_json_of_another_patch_is_refused(save):
    import timm

    args = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_base_patch16_224", pretrained=False, **args)
    content = {"architecture": "vit_base_patch16_224", "model_args": args | {"patch_size": 4}}
    content |= {"pretrained_cfg": {"mean": HALF, "std": HALF}}
    with refused(ModelError, kind="description_mismatch", key="patch"):
        load_backbone("vit", save(model, content, "config.json"))


@pytest.mark.parametrize("change", [{"architecture": "hf-hub:x/y"}, {"model_args": {"checkpoint_path": "x.pt"}}])
def test_a_json_that_makes_timm_load_a_file_is_refused(change, save):
    content = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"mean": HALF, "std": HALF}} | change
    with refused(ModelError, kind="foreign_file"):
        beside(Path(save(open_clip_model(open_clip_config()), content, "config.json")))


def test_another_librarys_config_json_is_not_a_description(save):
    with refused(ModelError, kind="undetermined"):
        load_backbone("clip_vit", save(open_clip_model(open_clip_config()), {"model_type": "clip"}, "config.json"))


# ---- the command line ----


def test_a_run_names_and_keeps_what_the_weights_are(save, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = open_clip_config()
    path = save(open_clip_model(config), {"model_cfg": config, "preprocess_cfg": {"mean": HALF, "std": HALF}})
    command = ["-d", "digits_lt", "-b", "clip_vit", "-m", "lp", "weights", path, "num_epochs", "1", "num_workers", "0"]
    assert cli.main(command) == 0
    assert "activation gelu, 2 heads, mean 0.5 0.5 0.5" in capsys.readouterr().out
    results = json.loads((tmp_path / "output/digits_lt_clip_vit_lp_num_epochs_1/results.json").read_text())
    assert results["weights"]["name"] == "w.safetensors"
    assert results["weights"]["published"] is False
    settings = results["settings"]
    assert (settings["mean"], settings["activation"], settings["heads"]) == (list(HALF), "gelu", 2)
    assert cli.main([*command, "mean", "clip", "test_only", "True"]) == 2
    assert_one_sentence(capsys.readouterr().err)


def test_a_wrong_size_under_a_name_is_wrong_input(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asset = str(loading.ASSETS / "clip_tiny.safetensors")
    assert cli.main(["-d", "digits_lt", "-b", "clip_vit_l14@336px", "-m", "zs", "weights", asset]) == 2
    assert capsys.readouterr().err.startswith(f"error: {asset} ")
    # clip_tiny's own file has a description
    assert cli.main(["-d", "digits_lt", "-b", "clip_vit", "-m", "zs", "weights", asset]) == 0


def test_a_checkpoint_belongs_to_a_description_of_its_weights(config, few_images, tmp_path):
    theirs = helpers.open_clip_model()
    state = {name: value.contiguous() for name, value in theirs.state_dict().items() if name != "attn_mask"}
    save_file(state, tmp_path / "w.safetensors")
    options = ["weights", tmp_path / "w.safetensors", "heads", 2, "mean", "half", "output_dir", "run", "num_epochs", 1]
    train(config(*options, "activation", "gelu", method="lp"))
    with refused(CheckpointError):
        train(config(*options, "activation", "quick_gelu", "test_only", "True", method="lp"))


@pytest.mark.parametrize("pools", [("avg", "tok"), ("tok", "avg")])
def test_a_checkpoint_belongs_to_the_pooling_in_the_description(pools, save, config, few_images):
    described = open_clip_config(quick_gelu=True, head_width=32)
    path = Path(save(open_clip_model(described)))

    def run(pool, *options):
        described["vision_cfg"] |= {"pool_type": pool, "final_ln_after_pool": True}
        path.with_name("open_clip_config.json").write_text(json.dumps({"model_cfg": described}))
        train(config("weights", path, "output_dir", "run", "num_epochs", 1, *options, method="lp"))

    run(pools[0])
    with refused(CheckpointError, kind="other_identity", key="architecture"):
        run(pools[1], "test_only", "True")
    with refused(CheckpointError, kind="other_identity", key="architecture"):
        run(pools[1])
