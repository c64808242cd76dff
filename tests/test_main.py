"""The command line: exit status, one clear sentence, no traceback."""

import os

import pytest
import torch
from helpers import assert_one_sentence, said

import main as cli
from datasets import DATASETS
from models.backbones import BACKBONES
from models.backbones.families.clip import clip_vit


@pytest.fixture
def command(random_clip, tmp_path, monkeypatch, capsys):
    """command(options...) -> (exit status, stderr), run in a separate folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEBUG", raising=False)

    def run(*options, data="digits_lt", backbone="clip_vit", method="lift+"):
        quick = ("weights", random_clip, "num_workers", 0, "num_epochs", 1)
        try:
            flags = ["-d", data, *(["-b", backbone] if backbone else []), "-m", method]
            status = cli.main([*flags, *map(str, (*quick, *options))])
        except SystemExit as exit:  # argparse's
            status = exit.code
        return status, capsys.readouterr().err

    return run


@pytest.fixture
def training_raises(monkeypatch):
    """training_raises(ERROR): a step of training raises it, in the loss."""

    def plan(error):
        def forward(*_):
            raise error

        monkeypatch.setattr("models.losses.LogitAdjusted.forward", forward)

    return plan


def test_a_run_ends_well(command, tmp_path):
    status, error = command()
    assert (status, error) == (0, "")
    assert (tmp_path / "output/digits_lt_clip_vit_lift+_num_epochs_1/results.json").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("lrr", 1),
        ("batch_size", 10, "accum_step", 4),
        ("lr",),
        ("gpu", -2),
        ("resolution", 4),
        ("v.lora", "True", "v.lora_layers", 5),
        ("weights", "nowhere.pt"),
        ("test_only", "True"),
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_bad_options(options, command, tmp_path):
    """Mistakes in the configuration, in the model, and a checkpoint that does not exist: nothing is written."""
    status, error = command(*options)
    assert status == 2
    assert_one_sentence(error)
    assert options[0] != "test_only" or not (tmp_path / "output").exists()


def test_a_missing_flag(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["-b", "clip_tiny", "-m", "lift+"])
    assert caught.value.code == 2
    assert "-d" in capsys.readouterr().err
    status = cli.main(["-d", "digits_lt", "-m", "lift+"])
    assert status == 2
    assert_one_sentence(capsys.readouterr().err)


@pytest.mark.slow
def test_lifts_form_and_names(command, tmp_path, monkeypatch):
    """A model of LIFT's with its options, on a small stand-in; one line has their meaning."""
    small = BACKBONES["clip_vit_b16"]._replace(config=clip_vit(128, 2, 16, 32, 64, 64, 2))
    monkeypatch.setitem(BACKBONES, "clip_vit_b16", small)
    options = ("micro_batch_size", 2, "adapter_dim", 1, "prec", "fp32", "print_freq", 50)
    status, error = command(*options, backbone=None, method="clip_vit_b16_peft")
    assert status == 0
    assert error == (
        "note: LIFT's names were read: prec fp32 as prec_train fp32, prec_test fp32; "
        "micro_batch_size 2 as accum_step 4; adapter_dim 1 as v.adaptformer_dim 1\n"
    )
    (run,) = (tmp_path / "output").iterdir()
    assert run.name.startswith("digits_lt_clip_vit_b16_peft_prec_train_fp32_num_epochs_1_accum_step_4")
    assert (run / "results.json").exists()
    status, _ = command(*options, "test_only", True, backbone=None, method="clip_vit_b16_peft")
    assert status == 0
    assert (run / "results_tte.json").exists()
    status, _ = command(*options, "test_train", True, backbone=None, method="clip_vit_b16_peft")
    assert status == 0
    assert (run / "results_train_tte.json").exists()


@pytest.mark.parametrize(
    ("data", "options"),
    [("cifar100", ("root", "file")), ("folder", ("root", "nowhere")), ("folder", ("root", ".")), ("folder", ())],
    ids=["cifar100 in a file", "folder nowhere", "folder without train", "folder without root"],
)
def test_a_wrong_root(data, options, command, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    status, error = command(*options, data=data)
    assert status == 2
    assert_one_sentence(error)
    assert not (tmp_path / "output").exists()


@pytest.fixture
def pictures(tmp_path):
    """root: a folder of two classes with pictures."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, name in (("train", "zero"), ("train", "one"), ("test", "zero"), ("test", "one")):
        folder = tmp_path / "pictures" / split / name
        folder.mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(folder / f"{i}.jpg")
    return tmp_path / "pictures"


@pytest.mark.parametrize("workers", [0, 2])
def test_own_pictures_and_a_damaged_one(command, pictures, workers):
    options = ("root", pictures, "num_workers", workers, "batch_size", 4)
    status, error = command(*options, data="folder")
    assert (status, error) == (0, "")
    bad = pictures / "train/one/3.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    status, error = command(*options, data="folder")
    assert status == 2
    assert_one_sentence(error)  # the finished run is not of these pictures
    status, error = command(*options, "output_dir", "other", data="folder")
    assert status == 2
    assert_one_sentence(error)


def test_a_picture_that_vanishes(command, pictures, monkeypatch):
    build = DATASETS["folder"]

    def build_and_lose(*args, **kwargs):
        data = build(*args, **kwargs)
        os.remove(pictures / "test/zero/2.jpg")
        return data

    monkeypatch.setitem(DATASETS, "folder", build_and_lose)
    status, error = command("root", pictures, "batch_size", 4, data="folder")
    assert status == 2
    assert_one_sentence(error)


def test_no_permission_to_write(command, tmp_path, monkeypatch):
    (tmp_path / "output").write_text("in the way")
    status, error = command()
    assert status == 2
    assert_one_sentence(error)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    status, error = command()
    assert status == 2
    assert_one_sentence(error)


def test_no_text_tower(command):
    """A ViT that cannot read class names: the error names the other initialisation."""
    import timm

    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=64, num_heads=1, depth=1)
    torch.save(vit.state_dict(), "vit.pt")
    options = ("weights", "vit.pt", "activation", "gelu", "heads", 1, "mean", "half")
    status, error = command(*options, "classifier_init", "semantic", backbone="vit")
    assert status == 2
    assert_one_sentence(error)
    status, error = command(*options, backbone="vit")
    assert (status, error) == (0, "")
    status, error = command(*options, backbone="clip_vit")
    assert status == 2
    assert_one_sentence(error)


def test_a_failure_is_status_1(command, training_raises, monkeypatch):
    training_raises(RuntimeError("something broke"))
    status, error = command()
    assert status == 1
    assert error == "failed: RuntimeError: something broke (DEBUG=1 shows the traceback)\n"
    monkeypatch.setenv("DEBUG", "1")
    with pytest.raises(RuntimeError, match="something broke"):
        command()


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(torch.OutOfMemoryError("CUDA out of memory."), id="without a size"),
        pytest.param(
            torch.cuda.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which "
                "1.20 GiB is free. If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF"
            ),
            id="with a size",
        ),
        pytest.param(
            RuntimeError(
                "index_fill_cuda does not have a deterministic implementation, but you set "
                "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation, or"
            ),
            id="not deterministic",
        ),
    ],
)
def test_failures_of_a_gpu_have_a_remedy(command, training_raises, error):
    training_raises(error)
    status, error = command()
    assert status == 1
    assert_one_sentence(error, start="failed: ")


def test_the_log_has_the_reason_of_a_failure(command, tmp_path, training_raises):
    training_raises(ZeroDivisionError())
    command()
    log = (tmp_path / "output/digits_lt_clip_vit_lift+_num_epochs_1/log.txt").read_text()
    assert "stopped: ZeroDivisionError" in log


def test_ctrl_c(command, training_raises):
    training_raises(KeyboardInterrupt)
    status, error = command()
    assert status == 130
    said(error.rstrip())
