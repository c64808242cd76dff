"""The configuration: merging, errors, the names of run directories."""

import os
from pathlib import Path

import pytest
import yaml
from cases import covering
from helpers import refused
from script_runs import files_read_once

import utils.config
from datasets import DATASETS
from datasets.loading.crops import MDA_SCHEDULES, RESIZE_RULES
from models.backbones import BACKBONES, FAMILIES
from models.backbones.named import NAMED
from models.heads import HEAD_INITS, HEADS
from models.losses import LOSSES
from models.peft import METHODS
from utils.config import completed, config_names, load_config
from utils.config.addresses import SCHEMES
from utils.config.legacy_keys import LIFT_KEYS
from utils.config.naming import FORMER_BACKBONES
from utils.config.schema import KEYS, PEFT, SCHEMA, TEXT_PEFT, methods_of
from utils.config.suggestions import OTHER_KEYS, OTHER_NAMES, OTHER_VALUES
from utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def load(*options, data="digits_lt", backbone="clip_tiny", method="lift+"):
    return load_config(data, backbone, method, [str(option) for option in options])


BAD_OPTIONS = yaml.safe_load(Path(__file__).with_name("bad_options.yaml").read_text())


def case_id(case):
    names = [f"{name}={case[name]}" for name in ("data", "backbone", "method") if name in case]
    return " ".join([*names, *map(str, case["options"])])


@pytest.mark.parametrize("case", BAD_OPTIONS, ids=case_id)
def test_bad_options_are_refused(case):
    names = {name: case[name] for name in ("data", "backbone", "method") if name in case}
    with refused(ConfigError, kind=case["kind"], key=case["key"]):
        load(*case["options"], **names)


@pytest.mark.slow
def test_every_triple_merges():
    with files_read_once():
        for data, backbone, method in covering(*map(config_names, ("data", "backbone", "method"))):
            cfg = load(data=data, backbone=backbone, method=method)
            assert (cfg.dataset, cfg.backbone) == (data, backbone)
            assert cfg.dataset in DATASETS
            assert cfg.backbone in {*BACKBONES, *FAMILIES}


def test_the_files_and_the_tables_hold_the_same_names():
    assert set(config_names("data")) == set(DATASETS)
    assert sorted(config_names("backbone")) == sorted([*BACKBONES, *FAMILIES])


def test_the_order_of_merging():
    assert load().batch_size == 8  # digits_lt.yaml over the default 128
    assert load(method="lift").num_epochs == 10  # lift.yaml over digits_lt's 20
    assert load("num_epochs", 3, method="lift").num_epochs == 3  # the options over all


def test_the_published_settings_of_the_methods():
    lift_plus, lift, zs = (load(data="cifar100_ir100", method=method) for method in ("lift+", "lift", "zs"))
    for cfg in (lift_plus, lift):
        assert (cfg.classifier, cfg.classifier_scale, cfg.classifier_init) == ("CosineClassifier", 25, "semantic")
        assert cfg.v.adaptformer is True
        assert (cfg.loss_type, cfg.momentum, cfg.weight_decay) == ("LA", 0.9, 5e-4)
    assert (lift_plus.num_epochs, lift_plus.lr, lift_plus.mda, lift_plus.mda_func) == (5, 0.02, True, "convex")
    assert (lift.num_epochs, lift.lr, lift.mda) == (10, 0.01, False)
    assert zs.zero_shot is True
    assert zs.classifier is None


MODELS_OF_LIFT = {  # of both generations of its command line: the backbone, and the enabled methods
    "clip_vit_b16": ("clip_vit_b16", None),
    "clip_vit_l14": ("clip_vit_l14", None),
    "clip_vit_l14@336px": ("clip_vit_l14@336px", None),
    "clip_rn50": ("clip_rn50", None),
    "clip_rn101": ("clip_rn101", None),
    "in21k_vit_b16": ("in21k_vit_b16", None),
    "in21k_vit_b16@384px": ("in21k_vit_b16@384px", None),
    "in21k_vit_l16": ("in21k_vit_l16", None),
    "zsclip_vit_b16": ("clip_vit_b16", "zero_shot"),
    "zsclip_vit_l14": ("clip_vit_l14", "zero_shot"),
    "zsclip_vit_l14@336px": ("clip_vit_l14@336px", "zero_shot"),
    "zsclip_rn50": ("clip_rn50", "zero_shot"),
    "zsclip_rn101": ("clip_rn101", "zero_shot"),
    "clip_vit_b16_peft": ("clip_vit_b16", "v.adaptformer"),
    "clip_vit_b16_ft": ("clip_vit_b16", "v.fft"),
    "clip_rn50_peft": ("clip_rn50", "v.bitfit"),
    "clip_rn101_peft": ("clip_rn101", "v.bitfit"),
    "in21k_vit_b16_peft": ("in21k_vit_b16", "v.adaptformer"),
}


@pytest.mark.parametrize("model", config_names("model"))
def test_lifts_form(model):
    """-d DATA -m MODEL: the model names its backbone, whose file has lower priority."""
    backbone, method = MODELS_OF_LIFT[model]
    cfg = load(data="cifar100_ir100", backbone=None, method=model)
    assert cfg.backbone == backbone
    if cfg.weights is None:
        assert cfg.mean == load(data="cifar100_ir100", backbone=backbone, method="lp").mean
    assert cfg.output_dir == f"output/cifar100_ir100_{model}"
    on = [f"v.{name}" for name, value in cfg.v.items() if value is True]
    assert (cfg.variant, cfg.interpolation, cfg.shot_groups) == ("lift", "bilinear", "ir100")
    assert cfg.tte == model.endswith("_peft")
    assert cfg.expand == (24 if cfg.tte else None)  # one crop: for any value of expand
    tested = load("tte", True, data="cifar100_ir100", backbone=None, method=model)
    assert tested.expand == (21 if "l14" in model else 24)
    if method == "zero_shot":
        assert cfg.zero_shot
        assert on == []
        return
    assert on == ([method] if method else [])
    assert (cfg.num_epochs, cfg.lr, cfg.batch_size, cfg.weight_decay, cfg.momentum) == (10, 0.01, 128, 5e-4, 0.9)
    assert (cfg.mda, cfg.classifier, cfg.classifier_scale, cfg.loss_type) == (False, "CosineClassifier", 25, "LA")
    assert (cfg.classifier_init, cfg.classifier_init_images) == ("class_mean" if "in21k" in model else "semantic", None)


def test_all_models_of_lift_are_there():
    assert set(config_names("model")) == set(MODELS_OF_LIFT)


def test_lifts_vit_of_imagenet_21k_is_the_one_that_its_timm_had():
    for model in ("in21k_vit_b16", "in21k_vit_b16_peft"):
        cfg = load(backbone=None, method=model)
        assert cfg.weights == "timm:vit_base_patch16_224.augreg_in21k_ft_in1k"
        assert cfg.mean is None  # that of these weights


def test_expand_counts_with_several_crops_alone_in_lifts_form():
    lines = []
    cfg = load_config("digits_lt", None, "clip_vit_b16", ["expand", "8"], lines.append)
    assert cfg.expand is None
    assert "tte True" in lines[0]
    assert load("expand", 8, "tte", True, backbone=None, method="clip_vit_b16").expand == 8
    assert load("expand", 8).expand == 8  # of LIFT+'s form


def test_zero_shot_in_lifts_form_reads_the_default_prompt():
    assert load("prompt", "ensemble", backbone=None, method="zsclip_vit_b16").prompt == "default"
    assert load("prompt", "ensemble", method="zs").prompt == "ensemble"


@pytest.mark.parametrize("path", sorted((ROOT / "configs/method").glob("*.yaml")), ids=lambda path: path.stem)
def test_method_files_set_only_what_differs(path):
    for key, value in utils.config.files.flatten(yaml.safe_load(path.read_text())):
        assert KEYS[key].default != value


@pytest.mark.parametrize("section", ["data", "backbone", "method", "model"])
def test_configs_are_short_and_say_their_command(section):
    for path in (ROOT / "configs" / section).glob("*.yaml"):
        lines = path.read_text().splitlines()
        assert len([line for line in lines if not line.startswith("#")]) <= 8
        assert lines[0].startswith("#")
        assert any("python " in line for line in lines if line.startswith("#"))


# ---- addresses ----

ADDRESSES = {  # address: the run directory between the data set and the method
    "timm:vit_base_patch14_reg4_dinov2.lvd142m": "timm-vit_base_patch14_reg4_dinov2.lvd142m",
    "timm:resnet50": "timm-resnet50",
    "open_clip:ViT-B-16/datacomp_xl_s13b_b90k": "open_clip-ViT-B-16-datacomp_xl_s13b_b90k",
    "hf-hub:imageomics/bioclip-2": "hf-hub-imageomics-bioclip-2",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_a_backbone_without_a_file(address):
    cfg = load(backbone=address, data="folder")
    assert (cfg.backbone, cfg.weights, cfg.mean, cfg.std) == (address, None, None, None)
    assert cfg.output_dir == f"output/folder_{ADDRESSES[address]}_lift+"
    with_file = load("weights", "FILE", backbone=address, data="folder")
    assert (with_file.backbone, with_file.weights) == (address, "FILE")
    assert with_file.output_dir == cfg.output_dir  # as for the named ones


def test_the_head_starts_from_means_where_the_library_has_no_text_towers():
    inits = {address: load(backbone=address).classifier_init for address in ADDRESSES}
    assert inits == {name: "class_mean" if name.startswith("timm:") else "semantic" for name in ADDRESSES}
    assert load("classifier_init", "None", backbone="timm:resnet50").classifier_init is None
    assert load(backbone="timm:resnet50", method="lift").classifier_init == "class_mean"


def test_every_address_of_a_named_backbone_is_taken():
    for row in NAMED.values():
        assert load(backbone=row.address).backbone == row.address
        assert load("weights", row.address, backbone="vit").weights == row.address


def test_long_addresses_are_refused_in_short_messages():
    for name in ("x" * 201, "x" * 100_000, "a" * 100_000 + "/"):
        for backbone in (f"timm:{name}", f"{name}:x", f"hf-hub:{name}/y"):
            with pytest.raises(ConfigError) as caught:
                load(backbone=backbone)
            assert caught.value.kind == "bad_address"
            assert len(str(caught.value)) < 500


# ---- yacs' traps ----


def test_a_whole_number_is_good_for_a_float():
    cfg = load("lr", 1, "classifier_scale", 30)
    assert (cfg.lr, cfg.classifier_scale) == (1.0, 30.0)
    assert isinstance(cfg.lr, float)


def test_a_fraction_is_good_for_a_scale():
    assert load("classifier_scale", 25.5).classifier_scale == 25.5


@pytest.fixture
def own_configs(tmp_path, monkeypatch):
    """A folder that replaces configs/, with one file of each section, mine.yaml."""
    for section, content in (
        ("data", "dataset: digits_lt"),
        ("backbone", "backbone: clip_tiny"),
        ("method", "classifier: CosineClassifier"),
        ("model", "{backbone: mine, classifier: CosineClassifier}"),
    ):
        (tmp_path / section).mkdir()
        (tmp_path / section / "mine.yaml").write_text(content)
    monkeypatch.setattr(utils.config.files, "CONFIGS", tmp_path)
    return tmp_path


def test_yaml_that_reads_a_number_as_text(own_configs):
    """PyYAML reads 1e-3 as a string."""
    (own_configs / "data/mine.yaml").write_text("dataset: digits_lt\nlr: 1e-3\n")
    assert load(data="mine", backbone="mine", method="mine").lr == 1e-3


def test_none_where_it_means_something():
    cfg = load("classifier_init", "None", "v.lora_dim", "None", "expand", "None")
    assert cfg.classifier_init is None
    assert cfg.v.lora_dim is None
    assert cfg.expand is None


@pytest.mark.parametrize(
    ("text", "layers"), [("3", 3), ("0", 0), ("[0,2]", (0, 2)), ("[1]", (1,)), ("4,5", (4, 5)), ("None", None)]
)
def test_layers(text, layers):
    assert load("v.lora_layers", text).v.lora_layers == layers


def test_text_is_never_evaluated():
    trap = "__import__('os').system('touch evaluated')"
    assert load("root", trap).root == trap
    assert load("root", "123").root == "123"
    assert not os.path.exists("evaluated")


def test_a_frozen_configuration_cannot_be_changed():
    cfg = load()
    for change in (
        lambda: setattr(cfg, "lr", 1.0),
        lambda: cfg.__setitem__("lr", 1.0),
        lambda: cfg.v.__setitem__("lora", True),
        lambda: cfg.update(lr=1.0),
        lambda: cfg.pop("lr"),
        lambda: cfg.setdefault("new", 1),
        lambda: cfg.v.clear(),
        lambda: cfg.__delitem__("lr"),
    ):
        with pytest.raises(AttributeError):
            change()
    assert cfg.lr == 0.02


def test_values_of_the_weights_complete_a_configuration():
    """Values set by a user or a file stay; nothing else changes."""
    cfg = load("interpolation", "bilinear", "v.lora_dim", 3)
    assert (cfg.interpolation, cfg.resize) == ("bilinear", None)
    found = completed(cfg, {"interpolation": "bicubic", "resize": "squash", "v.lora_dim": 5, "v.adapter_dim": 7})
    assert (found.interpolation, found.resize, found.v.lora_dim, found.v.adapter_dim) == ("bilinear", "squash", 3, 7)
    assert found == load("interpolation", "bilinear", "v.lora_dim", 3, "resize", "squash", "v.adapter_dim", 7) | {
        "output_dir": cfg.output_dir
    }
    assert (cfg.resize, cfg.v.adapter_dim) == (None, None)
    for change in (lambda: found.update(lr=1.0), lambda: setattr(found.v, "lora", True)):
        with pytest.raises(AttributeError):
            change()


def test_another_name_of_a_key():
    assert load("tte_expand", 24).expand == 24


# ---- LIFT's names ----

LAST_THREE, OFF = ("v.adaptformer_layers", 3), ("v.adaptformer", False)
READ = [  # options in LIFT's names, and in native names
    (("prec", "fp32"), ("prec_train", "fp32", "prec_test", "fp32")),
    (("prec", "amp"), ("prec_train", "amp")),
    (("micro_batch_size", 16, "batch_size", 64), ("batch_size", 64, "accum_step", 4)),
    (("batch_size", 64, "micro_batch_size", 64), ("batch_size", 64, "accum_step", 1)),
    (("micro_batch_size", "None"), ("accum_step", "None")),
    (("micro_batch_size", 16, "batch_size", 64, "accum_step", 4), ("batch_size", 64, "accum_step", 4)),
    (("scale", 30), ("classifier_scale", 30)),
    (("init_head", "text_feat"), ("classifier_init", "semantic")),
    (("init_head", "class_mean"), ("classifier_init", "class_mean", "classifier_init_images", "None")),
    (("init_head", "linear_probe"), ("classifier_init", "linear_probing", "classifier_init_images", "None")),
    (("init_head", "7_shot"), ("classifier_init", "class_mean", "classifier_init_images", 7)),
    (("init_head", "10_shot"), ("classifier_init", "class_mean", "classifier_init_images", 10)),
    (("init_head", "None"), ("classifier_init", "None")),
    (("full_tuning", True), ("v.fft", True)),
    (("bias_tuning", True), ("v.bitfit", True)),
    (("ln_tuning", True), ("v.ln_tuning", True)),
    (("vpt_shallow", True, "vpt_len", 8), ("v.pt", True, "v.pt_layers", "[0]", "v.pt_len", 8)),
    (("vpt_deep", True, "vpt_shallow", False), ("v.pt", True, "v.pt_len", 10)),
    (("vpt_deep", True, "vpt_len", "None"), ("v.pt", True, "v.pt_len", 10)),
    (("vpt_deep", True, "v.pt_len", 5), ("v.pt", True, "v.pt_len", 5)),
    (("vpt_shallow", True, "partial", 3), ("v.pt", True, "v.pt_layers", "[0]", "v.pt_len", 10, *LAST_THREE)),
    (("vpt_deep", True, "partial", 3), ("v.pt", True, "v.pt_layers", 3, "v.pt_len", 10, *LAST_THREE)),
    (("bn_tuning", True), ("v.bn_tuning", True)),
    (("lora_mlp", True, "adapter_dim", 8), ("v.lora_mlp", True, "v.lora_mlp_dim", 8, "v.adaptformer_dim", 8)),
    (("ssf_ln", True), ("v.ssf_ln", True)),
    (("adapter_dim", "None"), ()),
    (("mask", True, "mask_seed", 7), ("v.aft", True, "v.aft_seed", 7)),
    (("mask", True, "mask_seed", "None"), ("v.aft", True)),
    (("tte", True, "tte_mode", "fivecrop"), ("tte", True)),
    (("tte", True, "tte_mode", "tencrop"), ("tte", True, "tte_crops", 10)),
    (("tte", True, "tte_mode", "randaug"), ("tte", True, "tte_draws", 1)),
    (("tte", True, "tte_mode", "randaug", "randaug_times", 5), ("tte", True, "tte_draws", 5)),
    (("tte", True, "randaug_times", 5), ("tte", True)),
    (("imb_factor", "None", "adaptformer_scale", "learnable"), ()),
    (("classifier", "L2NormedClassifier"), ("classifier", "L2NormClassifier")),
    (("classifier", "LayerNormedClassifier"), ("classifier", "LayerNormClassifier")),
    (("adapter", True, "adaptformer", False), ("v.adapter", True, "v.adaptformer", False)),
    (("lora", True, "adaptformer", False, "adapter_dim", 8), ("v.lora", True, "v.adaptformer", False, "v.lora_dim", 8)),
    (("adapter_dim", 8), ("v.adaptformer_dim", 8)),
    (("adapter_dim", 8, "v.adapter", True), ("v.adapter", True, "v.adapter_dim", 8, "v.adaptformer_dim", 8)),
    (("ssf_attn", True), ("v.ssf", True, "v.ssf_loc", "attn")),
    (("ssf_mlp", True), ("v.ssf", True, "v.ssf_loc", "mlp")),
    (("ssf_mlp", True, "ssf_attn", True), ("v.ssf", True)),
    (("mask", True, "mask_ratio", 0.01), ("v.aft", True, "v.aft_ratio", 0.01)),
    (("partial", 2), ("v.adaptformer_layers", 2)),
    (("partial", 0), ("v.adaptformer_layers", 0)),
    (("partial", "None"), ()),
    (("partial", "[3,5]"), ("v.adaptformer_layers", "[3,4]")),
    (("full_tuning", True, "partial", 0), ("v.fft", True, "v.fft_layers", 0, "v.adaptformer_layers", 0)),
    (("bias_tuning", True, "partial", 1, *OFF), ("v.bitfit", True, *OFF)),
    (("ln_tuning", True, "partial", 1, *OFF), ("v.ln_tuning", True, *OFF)),
    *(
        ((theirs, True, "partial", 1, *OFF), (f"v.{ours}", True, *options, f"v.{ours}_layers", 1, *OFF))
        for theirs, ours, options in (
            ("adapter", "adapter", ()),
            ("lora", "lora", ()),
            ("lora_mlp", "lora_mlp", ()),
            ("ssf_attn", "ssf", ("v.ssf_loc", "attn")),
            ("ssf_ln", "ssf_ln", ()),
            ("mask", "aft", ()),
        )
    ),
    (("test_ensemble", True), ("tte", True)),
]


@pytest.mark.parametrize(("theirs", "ours"), READ)
def test_lifts_names_are_read_as_ours(theirs, ours):
    assert load(*theirs) == load(*ours)


@pytest.mark.parametrize("name", LIFT_KEYS)
def test_every_name_of_lifts_is_tried_above(name):
    assert any(name in theirs for theirs, _ in READ)


def test_one_line_tells_how_lifts_names_were_read():
    lines = []
    options = ["micro_batch_size", "4", "adapter_dim", "2", "lr", "1"]
    load_config("digits_lt", "clip_tiny", "lift+", options, lines.append)
    assert lines == [
        "LIFT's names were read: micro_batch_size 4 as accum_step 2; adapter_dim 2 as v.adaptformer_dim 2",
    ]


def test_a_command_that_means_the_same_in_both_papers_needs_no_line():
    lines = []
    load_config("digits_lt", None, "clip_vit_b16", ["lr", "0.02", "tte", "True", "expand", "8"], lines.append)
    load_config("digits_lt", "clip_tiny", "lift+", ["v.ssf_ln", "True", "v.lora_mlp", "True"], lines.append)
    assert lines == []


def test_sizes_of_methods_that_are_off_are_told():
    """Forgetting the switch is the usual mistake."""
    lines = []
    options = ["v.lora_dim", "8", "l.pt_len", "3", "v.adaptformer_dim", "4", "v.aft_loc", "attn", "v.aft", "True"]
    load_config("digits_lt", "clip_tiny", "lift+", options, lines.append)
    assert lines == [
        "v.lora_dim has no effect while v.lora is False",
        "l.pt_len has no effect while l.pt is False",
    ]


@pytest.mark.parametrize(
    "in_file, options, expected",
    [
        ("partial: 6", ("full_tuning", True), {"v.fft_layers": 6}),
        ("adapter_dim: 8", ("adaptformer", True), {"v.adaptformer_dim": 8}),
        ("adaptformer: True, adapter_dim: 8", ("adaptformer", False, "lora", True), {"v.lora_dim": 8}),
        ("batch_size: 128, micro_batch_size: 32", ("batch_size", 64), {"accum_step": 2}),
        ("tte: True, randaug_times: 5", ("tte_mode", "randaug"), {"tte_draws": 5}),
        ("ssf_attn: True", ("ssf_attn", False), {"v.ssf": False}),
        ("ssf_attn: True, ssf_mlp: True", ("ssf_mlp", False), {"v.ssf": True, "v.ssf_loc": "attn"}),
        ("vpt_deep: True", ("vpt_deep", False), {"v.pt": False}),
        ("vpt_deep: True", ("vpt_shallow", False), {"v.pt": True}),
        ("prec: fp32", ("prec", "amp"), {"prec_train": "amp", "prec_test": "fp16"}),
        ("v: {adaptformer: True}", ("adaptformer", False), {"v.adaptformer": False}),
        ("adaptformer: True", ("v.adaptformer", False), {"v.adaptformer": False}),
    ],
)
def test_lifts_names_in_a_file_are_read_with_the_command_line(in_file, options, expected, own_configs):
    (own_configs / "model/mine.yaml").write_text(f"{{backbone: mine, classifier: CosineClassifier, {in_file}}}")
    cfg = load(*options, data="mine", backbone=None, method="mine")
    for key, value in expected.items():
        node, _, name = key.rpartition(".")
        assert (cfg[node][name] if node else cfg[name]) == value, key


def test_a_method_of_a_file_is_switched_off_by_lifts_name():
    assert load("ssf_attn", False, method="ssf").v.ssf_loc == "mlp"
    assert load("vpt_deep", False, method="pt").v.pt is False


def test_different_trainings_have_different_directories():
    model = {"backbone": None, "method": "clip_vit_b16"}
    for one, other in (
        (("adaptformer", True, "partial", 1), ("adaptformer", True, "partial", "[1,2]")),
        (("vpt_shallow", True), ("vpt_deep", True, "partial", 0)),
        (("v.fft", True, "v.fft_layers", 1), ("v.fft", True, "v.fft_layers", "[1]")),
    ):
        assert load(*one, **model).output_dir != load(*other, **model).output_dir
    assert load("vpt_shallow", True, **model).output_dir.endswith("_v.pt_True_v.pt_layers_0_v.pt_len_10")  # as ever
    same = {load("full_tuning", True, "partial", part, **model).output_dir for part in (0, "[3,3]")}
    assert len(same) == 1


def test_a_long_name_is_shortened_and_stays_its_own():
    options = ("full_tuning", True, "adaptformer", True, "lora", True, "adapter", True, "ssf_attn", True, "partial")
    names = {load(*options, part, backbone=None, method="clip_vit_l14").output_dir for part in ("[0,24]", "[0,23]")}
    assert len(names) == 2
    assert all(len(name.encode()) <= len("output/") + 200 for name in names)


def test_a_test_of_another_run_needs_no_seed():
    assert load("seed", "None", "test_only", "True", "model_dir", "elsewhere/run").output_dir == "elsewhere/run"


def test_the_last_value_of_a_key_counts():
    assert load("lr", 1, "seed", 1, "lr", 2).lr == 2
    assert load("expand", 10, "tte_expand", 20, "expand", 30, "tte", "True").expand == 30


def test_expand_has_no_effect_on_random_crops():
    lines = []
    load_config("digits_lt", "clip_tiny", "lift+", ["tte", "True", "tte_draws", "2", "expand", "9"], lines.append)
    assert "expand has no effect" in lines[0]


# ---- rules between keys ----


def test_combinations_that_are_allowed():
    for key in ("coop", "proj_tuning", "clip_adapter"):
        assert load(key, "True", "classifier", "None")[key] is True
    assert load("l.lora", "True", "v.adaptformer", "False", "classifier", "None").l.lora is True
    assert load("loss_type", "LADE").loss_type == "LADE"
    assert load("prompt", "descriptor", "prompt_file", "x.json", backbone=None, method="zsclip_vit_b16").zero_shot


@pytest.mark.parametrize(
    ("options", "kind", "key"),
    [
        (("seed", "None"), "seed_of_processes", "seed"),
        (("loss_type", "LADE"), "needs_whole_batches", "loss_type"),
        (("v.bn_tuning", "True"), "needs_whole_batches", "v.bn_tuning"),
    ],
)
def test_several_processes(options, kind, key, monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with refused(ConfigError, kind=kind, key=key):
        load(*options)


# ---- files of configs/ ----


@pytest.mark.parametrize(
    ("section", "content", "kind", "key"),
    [
        ("data", "dataset: [", "not_yaml", None),
        ("method", "- a list", "not_key_value", None),
        ("method", "lrr: 3", "unknown_key", "lrr"),
        ("method", "lr: fast", "wrong_value", "lr"),
        ("method", "partial: [3, 1]", "wrong_value", "partial"),
        ("data", "lr: 1", "missing_key", "dataset"),
        ("backbone", "lr: 1", "missing_key", "backbone"),
    ],
)
def test_files_that_are_refused(section, content, kind, key, own_configs):
    (own_configs / section / "mine.yaml").write_text(content)
    with refused(ConfigError, kind=kind, path=own_configs / section / "mine.yaml", key=key):
        load(data="mine", backbone="mine", method="mine")


# ---- the schema and the tables ----


def test_the_schema_offers_what_the_tables_hold():
    assert set(KEYS["classifier"].choices) == set(HEADS)
    assert set(KEYS["classifier_init"].choices) == set(HEAD_INITS)
    assert set(KEYS["loss_type"].choices) == set(LOSSES)
    assert set(KEYS["mda_func"].choices) == set(MDA_SCHEDULES)
    assert set(KEYS["resize"].choices) == set(RESIZE_RULES)


def test_the_keys_of_methods_are_their_options():
    """With the same defaults, but in the text tower; test_the_text_towers_sizes has those."""
    expected = {}
    for name, method in METHODS.items():
        key = name if name in methods_of("head") else f"v.{name}"
        expected[key] = False
        expected |= {f"{key}_{option}": default for option, default in vars(method.Options()).items()}
    groups = (SCHEMA["Fine-tuning of the image tower"], SCHEMA["CLIP's own head (without a classifier)"])
    assert {key: row.default for group in groups for key, row in group.items()} == expected


OF_BOTH_PAPERS = ("fft", "bitfit", "ln_tuning", "pt", "lora", "lora_mlp", "adapter", "ssf", "ssf_ln", "aft")


@pytest.mark.parametrize("name", [*OF_BOTH_PAPERS, *methods_of("head")])
def test_a_configuration_switches_on_each_method(name):
    cfg = load(method=name)
    assert (cfg if name in methods_of("head") else cfg.v)[name] is True


def test_no_method_is_forgotten():
    files = {path.stem for path in (ROOT / "models/peft").glob("*.py")} - {"__init__", "folding", "method"}
    assert files == set(METHODS)
    assert set(PEFT) == set(TEXT_PEFT)


def test_the_text_towers_sizes():
    cfg = load()
    assert (cfg.l.pt_len, cfg.l.lora_dim, cfg.l.adapter_dim, cfg.l.adaptformer_dim) == (2, 4, 4, 4)
    assert (cfg.v.pt_len, cfg.v.lora_dim, cfg.v.adapter_dim, cfg.v.adaptformer_dim) == (None,) * 4
    assert load("l.lora_dim", "None").l.lora_dim is None  # by default_size, as on v


# ---- run directories ----


def test_the_run_directory():
    assert load().output_dir == "output/digits_lt_clip_tiny_lift+"
    assert load("output_dir", "mine/run1").output_dir == "output/mine/run1"
    assert load("lr", 0.02, "seed", 0).output_dir == "output/digits_lt_clip_tiny_lift+"  # explicit defaults


@pytest.mark.parametrize("backbone", sorted(FORMER_BACKBONES))
def test_the_directory_of_a_run_of_an_earlier_version(backbone):
    """Bicubic was the default there, and every image was resized by its short side."""
    usual = f"output/digits_lt_{backbone}_lift+"
    for options in ((), ("interpolation", "bicubic"), ("resize", "shortest"), ("resize", "None")):
        assert load(*options, backbone=backbone).output_dir == usual
    assert load("interpolation", "bilinear", backbone=backbone).output_dir == f"{usual}_interpolation_bilinear"
    assert load("resize", "squash", backbone=backbone).output_dir == f"{usual}_resize_squash"


@pytest.mark.parametrize(
    ("value", "end"),
    [(None, ""), ("bilinear", ""), ("bicubic", "_interpolation_bicubic"), ("None", "_interpolation_None")],
)
def test_the_directory_in_lifts_form(value, end):
    """Bilinear is the default there for all weights."""
    options = () if value is None else ("interpolation", value)
    assert load(*options, backbone=None, method="clip_vit_b16").output_dir == f"output/digits_lt_clip_vit_b16{end}"


@pytest.mark.parametrize(
    ("in_file", "options", "end"),
    [
        ("", (), ""),
        ("", ("interpolation", "bicubic"), "_interpolation_bicubic"),  # its weights may have another one
        ("", ("resize", "shortest"), "_resize_shortest"),
        ("interpolation: bilinear", (), ""),
        ("interpolation: bilinear", ("interpolation", "bilinear"), ""),
        ("interpolation: bilinear", ("interpolation", "bicubic"), "_interpolation_bicubic"),
        ("interpolation: bilinear", ("interpolation", "None"), "_interpolation_None"),
    ],
)
def test_the_directory_of_a_newer_backbone(in_file, options, end, own_configs):
    (own_configs / "backbone/mine.yaml").write_text(f"backbone: mine\n{in_file}\n")
    assert load(*options, data="mine", backbone="mine", method="mine").output_dir == f"output/mine_mine_mine{end}"


@pytest.mark.parametrize("given", ["../x", "a/../../x", "link", "link/x", "dangling/x"])
def test_a_relative_output_dir_stays_below_output(given, tmp_path, monkeypatch):
    """A link that leads elsewhere is an error; the message has the absolute path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    (tmp_path / "output/link").symlink_to(tmp_path)
    (tmp_path / "output/dangling").symlink_to(tmp_path / "nowhere")
    with refused(ConfigError, kind="outside_output", key="output_dir"):
        load("output_dir", given)


def test_an_absolute_output_dir_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given, expected in ((tmp_path / "x", 1), (tmp_path / "output/x", 0), ("a/../x", 0), ("./output/x", 0)):
        lines = []
        cfg = load_config("digits_lt", "clip_tiny", "lift+", ["output_dir", str(given)], lines.append)
        assert cfg.output_dir == (str(given) if os.path.isabs(given) else "output/x")
        assert len(lines) == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("output_dir", "~/runs").output_dir == str(tmp_path / "runs")


def test_output_and_a_run_may_be_links(tmp_path, monkeypatch):
    """Somebody keeps them on another disk; a line has the path of the run."""
    monkeypatch.chdir(tmp_path)
    for folder in ("disk", "archive"):
        (tmp_path / folder).mkdir()
    (tmp_path / "output").symlink_to("disk")
    assert load("output_dir", "run").output_dir == "output/run"
    (tmp_path / "disk/digits_lt_clip_tiny_lift+").symlink_to(tmp_path / "archive")
    lines = []
    assert load_config("digits_lt", "clip_tiny", "lift+", [], lines.append).output_dir.startswith("output/digits")
    assert str(tmp_path / "archive") in lines[0]


@pytest.mark.parametrize(
    "name", ["seed", "lr", "output_dir", "weights", "loss_type", "v.lora_layers", "init_head", "x"]
)
def test_long_values_have_short_messages(name):
    for value in ("9" * 5000, "x" * 200_000, "[" + "1," * 100_000 + "1]"):
        try:
            load(name, value)
        except ConfigError as error:
            assert len(str(error)) < 700


def test_every_seed_of_64_bits_is_taken():
    assert load("seed", 2**64 - 1).seed == 2**64 - 1


def test_suggestions_are_keys_and_names():
    keys = {*KEYS, *LIFT_KEYS, "-d", "-b", "-m"}
    names = {name for section in ("data", "backbone", "method") for name in config_names(section)} | set(SCHEMES)
    values = {str(choice) for key in KEYS.values() for choice in key.choices} | {"True", "False"}
    for table, known in ((OTHER_KEYS, keys), (OTHER_NAMES, names), (OTHER_VALUES, values)):
        assert set(table.values()) <= known
    assert not OTHER_KEYS.keys() & {*KEYS, *LIFT_KEYS}


def test_the_order_of_options_does_not_matter():
    assert load("seed", 1, "lr", 0.1).output_dir == load("lr", "1e-1", "seed", 1).output_dir
    assert load("seed", 1, "lr", 0.1).output_dir == "output/digits_lt_clip_tiny_lift+_seed_1_lr_0.1"


HOW = {"root": "r", "gpu": -1, "num_workers": 0, "print_freq": 2, "weights": "w.pt", "prec_test": "fp32"}
HOW |= {"save_minutes": 5, "worker_timeout": 60, "save_logits": True, "feature_cache": False, "bad_images": "skip"}
HOW |= {"outside_root": True, "report": False, "compile": "never", "image_cache": "c", "checkpointing": True}
WHAT = {"test_only": True, "test_train": True, "tte": True, "tte_crops": 10, "expand": 8}
WHAT |= {"test_list": "t.csv", "val_list": "v.csv", "val_every": 2, "many_threshold": 50, "few_threshold": 5}
WHAT |= {"test_name": "t", "tte_draws": 3, "shot_groups": "ir100", "evaluators": "accuracy,top5"}


def test_a_test_run_finds_its_training_run():
    trained = load("seed", 3, "v.adaptformer_layers", "[0,2]")
    options = [part for pair in (HOW | WHAT).items() for part in pair]
    tested = load(*options, "v.adaptformer_layers", "[0,2]", "seed", 3)
    assert tested.output_dir == trained.output_dir == "output/digits_lt_clip_tiny_lift+_seed_3_v.adaptformer_layers_0-2"


def test_every_option_that_changes_training_enters_the_name():
    by_name_of_file = {"train_list", "classnames", "prompt_file", "model_dir", "init_from"}
    never = {*HOW, *WHAT, *by_name_of_file, "output_dir", "dataset", "backbone", "test_split", "tracker"}
    assert {name for name, key in KEYS.items() if not key.affects_training} == never


def test_other_published_weights_enter_the_name_safely():
    for weights, end in (
        ("timm:vit_base_patch16_224.augreg_in21k", "timm-vit_base_patch16_224.augreg_in21k"),
        ("open_clip:ViT-B-16/openai", "open_clip-ViT-B-16-openai"),
        ("hf-hub:imageomics/bioclip", "hf-hub-imageomics-bioclip"),
    ):
        cfg = load("weights", weights, backbone="in21k_vit_b16")
        assert cfg.output_dir.endswith(f"_weights_{end}")
        assert Path(cfg.output_dir).parent == Path("output")


def test_a_start_from_another_run_enters_the_name():
    assert load("model_dir", "elsewhere/first").output_dir == "output/digits_lt_clip_tiny_lift+_from_first"
    assert load("init_from", "elsewhere/first").output_dir == "output/digits_lt_clip_tiny_lift+_init_from_first"


def test_a_known_normalisation_has_a_name():
    cfg = load("mean", "imagenet", "weights", "w.pt", backbone="clip_vit")
    assert (cfg.mean, cfg.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert cfg.output_dir == "output/digits_lt_clip_vit_lift+_mean_imagenet_std_imagenet"


@pytest.mark.parametrize("weights", ["w.pt", "timm:vit_small_patch16_224.dino"])
def test_other_weights_bring_their_own_normalisation(weights):
    """The values in the backbone's file belong to its published weights."""
    cfg = load("weights", weights, backbone="in21k_vit_b16")
    assert (cfg.mean, cfg.std) == (None, None)
    cfg = load("weights", weights, "mean", "clip", backbone="in21k_vit_b16")
    assert cfg.mean == (0.48145466, 0.4578275, 0.40821073)


def test_no_seed_is_another_one_each_time(monkeypatch):
    lines = []
    seeds = {load_config("digits_lt", "clip_tiny", "lift+", ["seed", "None"], lines.append).seed for _ in range(5)}
    assert len(seeds) == 5
    assert "seed None: this run uses seed" in lines[0]


def test_lists_name_the_run_by_their_files_names():
    """Not by their folders: a list may move. Its content is part of the run's settings."""
    options = ("train_list", "/a/long/way/fold 1.csv", "classnames", "names.txt")
    cfg = load(*options, data="folder")
    assert cfg.output_dir == "output/folder_clip_tiny_lift+_train_list_fold-1_classnames_names"
    moved = load("classnames", "elsewhere/names.txt", "train_list", "fold 1.csv", "test_list", "t", data="folder")
    assert moved.output_dir == cfg.output_dir


def test_another_run_is_tested_in_its_own_directory():
    assert load("model_dir", "elsewhere/run", "test_only", "True").output_dir == "elsewhere/run"
