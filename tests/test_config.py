"""The configuration: what merges, what is refused and how, and where a run lands."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import utils.config
from datasets import DATASETS
from datasets.transforms import MDA_SCHEDULES
from models.head_init import HEAD_INITS
from models.heads import HEADS
from models.peft import METHODS
from models.weights import BACKBONES
from utils.config import ConfigError, config_names, load_config
from utils.losses import LOSSES
from utils.schema import KEYS, PEFT, SCHEMA

ROOT = Path(__file__).parent.parent


def load(*options, data="digits_lt", backbone="clip_tiny", method="lift+"):
    return load_config(data, backbone, method, [str(option) for option in options])


def refusal(*options, **names):
    with pytest.raises(ConfigError) as caught:
        load(*options, **names)
    return str(caught.value)


@pytest.mark.parametrize("backbone", config_names("backbone"))
def test_every_triple_merges(backbone):
    for data, method in itertools.product(config_names("data"), config_names("method")):
        cfg = load(data=data, backbone=backbone, method=method)
        assert (cfg.dataset, cfg.backbone) == (data, backbone)
        assert cfg.dataset in DATASETS
        assert cfg.backbone in BACKBONES


def test_the_files_and_the_tables_hold_the_same_names():
    assert set(config_names("data")) == set(DATASETS)
    assert set(config_names("backbone")) == set(BACKBONES)


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


@pytest.mark.parametrize("path", sorted((ROOT / "configs/method").glob("*.yaml")), ids=lambda path: path.stem)
def test_method_files_set_only_what_differs(path):
    for key, value in utils.config._flatten(yaml.safe_load(path.read_text())):
        assert KEYS[key].default != value


@pytest.mark.parametrize("room", ["data", "backbone", "method"])
def test_configs_are_short_and_say_their_command(room):
    for path in (ROOT / "configs" / room).glob("*.yaml"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 9
        assert lines[0].startswith("#")
        assert any("python " in line for line in lines if line.startswith("#"))


# ---- yacs' traps ----


def test_a_whole_number_is_good_for_a_float():
    cfg = load("lr", 1, "classifier_scale", 30)
    assert (cfg.lr, cfg.classifier_scale) == (1.0, 30.0)
    assert isinstance(cfg.lr, float)


def test_a_fraction_is_good_for_a_scale():
    assert load("classifier_scale", 25.5).classifier_scale == 25.5


def test_yaml_that_reads_a_number_as_text(tmp_path, monkeypatch):
    """PyYAML takes 1e-3 for a string."""
    for room in ("data", "backbone", "method"):
        (tmp_path / room).mkdir()
    (tmp_path / "data/d.yaml").write_text("dataset: digits_lt\nlr: 1e-3\n")
    (tmp_path / "backbone/b.yaml").write_text("backbone: clip_tiny\nmean: [0.5, 0.5, 0.5]\nstd: [0.5, 0.5, 0.5]\n")
    (tmp_path / "method/m.yaml").write_text("classifier: CosineClassifier\nlrr: 3\n")
    monkeypatch.setattr(utils.config, "CONFIGS", tmp_path)
    assert "method/m.yaml" in refusal(data="d", backbone="b", method="m")
    (tmp_path / "method/m.yaml").write_text("classifier: CosineClassifier\n")
    assert load(data="d", backbone="b", method="m").lr == 1e-3


def test_an_unknown_key_names_the_nearest():
    assert "'num_epochs'" in refusal("num_epoch", 3)
    assert "'v.adaptformer'" in refusal("v.adaptfomer", "True")
    assert "'v.adaptformer'" in refusal("adaptformer", "True")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("lr", "fast", "a number"),
        ("lr", "nan", "a number"),
        ("lr", "inf", "a number"),
        ("lr", "-0.1", "at least 0"),
        ("lr", "True", "a number"),
        ("seed", "1.5", "a whole number"),
        ("num_epochs", "0", "at least 1"),
        ("tte", "yes", "True or False"),
        ("loss_type", "LAA", "CE, LA"),
        ("classifier", "Cosine", "LinearClassifier, CosineClassifier or None"),
        ("mean", "0.5,0.5", "three numbers"),
        ("v.lora_layers", "all", "a list of block numbers"),
        ("v.lora_layers", "[0,-1]", "at least 0"),
        ("v.lora_dim", "2.5", "a whole number"),  # its default is None, and it has a type all the same
        ("expand", "wide", "a whole number"),
        ("classifier_scale", "None", "a number"),
    ],
)
def test_a_wrong_value_names_key_value_and_choices(key, value, expected):
    message = refusal(key, value)
    assert key in message
    assert expected in message
    assert value in message or value == "None"


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


def test_another_name_of_a_key():
    assert load("tte_expand", 24).expand == 24


# ---- rules between keys ----


def test_accum_step_divides_batch_size():
    message = refusal("batch_size", 12, "accum_step", 5)
    assert "12" in message
    assert "accum_step 4" in message or "accum_step 6" in message


def test_rules_between_keys():
    assert "zero_shot" in refusal("v.lora", "True", method="zs")
    assert "nothing to train" in refusal("v.adaptformer", "False", "classifier", "None")
    assert "test_only" in refusal("model_dir", "somewhere")
    assert "above 0" in refusal("std", "0,0.5,0.5")
    assert "three numbers" in refusal("mean", "None")
    assert "-d" in refusal("dataset", "cifar100")
    assert "-b" in refusal("backbone", "clip_vit_b16")
    assert "stands alone" in refusal("lr")


@pytest.mark.parametrize(("room", "flag"), [("data", "-d"), ("backbone", "-b"), ("method", "-m")])
def test_an_unknown_name_lists_the_choices(room, flag):
    message = refusal(**{room: "nonsense"})
    assert flag in message
    assert all(name in message for name in config_names(room))


# ---- the schema and the rest of the house ----


def test_the_schema_offers_what_the_tables_hold():
    assert set(KEYS["classifier"].choices) == set(HEADS)
    assert set(KEYS["classifier_init"].choices) == set(HEAD_INITS)
    assert set(KEYS["loss_type"].choices) == set(LOSSES)
    assert set(KEYS["mda_func"].choices) == set(MDA_SCHEDULES)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_complete(name):
    """One file, one row of METHODS, its rows in the schema, and a configuration that switches it on."""
    method = METHODS[name]
    assert (ROOT / f"models/peft/{name}.py").read_text().startswith('"""')
    assert name in PEFT
    assert f"{name}_layers" in PEFT
    assert method.size_key is None or method.size_key in PEFT
    assert any(load(method=other).v[name] for other in config_names("method"))


def test_no_method_is_forgotten():
    files = {path.stem for path in (ROOT / "models/peft").glob("*.py")} - {"__init__"}
    switches = {name for name, key in PEFT.items() if key.kind == "bool"}
    assert files == switches == set(METHODS)


def test_no_key_is_without_effect():
    readers = ("trainer.py", "models/__init__.py", "utils/losses.py", "utils/config.py", "datasets/transforms.py")
    code = "".join((ROOT / name).read_text() for name in readers)
    for name in KEYS:
        if not name.startswith("v."):
            assert re.search(rf'cfg\.{name}\b|values\["{name}"\]', code), f"nothing reads {name}"


def test_help_shows_every_key_without_loading_torch():
    code = "import sys, main\ntry: main.main(['--help'])\nfinally: print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert shown.endswith("False\n")
    for group, keys in SCHEMA.items():
        assert group in shown
        for name, key in keys.items():
            assert re.search(
                rf"^  {re.escape(name)} +{re.escape(str(key.default))} +{re.escape(key.help)}", shown, re.M
            )


# ---- where a run lands ----


def test_the_run_directory():
    assert load().output_dir == "output/digits_lt_clip_tiny_lift+"
    assert load("output_dir", "mine/run1").output_dir == "output/mine/run1"
    assert load("lr", 0.02, "seed", 0).output_dir == "output/digits_lt_clip_tiny_lift+"  # the defaults, said aloud


def test_the_order_of_options_does_not_matter():
    assert load("seed", 1, "lr", 0.1).output_dir == load("lr", "1e-1", "seed", 1).output_dir
    assert load("seed", 1, "lr", 0.1).output_dir == "output/digits_lt_clip_tiny_lift+_seed_1_lr_0.1"


HOW = {"root": "r", "gpu": -1, "num_workers": 0, "print_freq": 2, "weights": "w.pt", "prec_test": "fp32"}
WHAT = {"test_only": True, "test_train": True, "tte": True, "expand": 8}


def test_a_test_run_finds_its_training_run():
    trained = load("seed", 3, "v.adaptformer_layers", "[0,2]")
    options = [part for pair in (HOW | WHAT).items() for part in pair]
    tested = load(*options, "v.adaptformer_layers", "[0,2]", "seed", 3)
    assert tested.output_dir == trained.output_dir == "output/digits_lt_clip_tiny_lift+_seed_3_v.adaptformer_layers_0-2"


def test_every_option_that_changes_training_enters_the_name():
    never = {*HOW, *WHAT, "model_dir", "output_dir", "dataset", "backbone"}
    assert {name for name, key in KEYS.items() if not key.names_run} == never


def test_other_published_weights_enter_the_name_safely():
    cfg = load("weights", "timm:vit_base_patch16_224.augreg_in21k", backbone="in21k_vit_b16")
    assert cfg.output_dir.endswith("_weights_timm-vit_base_patch16_224.augreg_in21k")
    assert Path(cfg.output_dir).parent == Path("output")


def test_another_run_is_tested_in_its_own_directory():
    assert load("model_dir", "elsewhere/run", "test_only", "True").output_dir == "elsewhere/run"
