"""Tests that need a graphics card. `make test-gpu` runs them; see docs/gpu.md for their interpretation.

A test that can also run on a CPU does so in the ordinary suite, which checks its logic.
"""

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from fake_gpu import model_with
from gpu_bits import gradients
from helpers import assert_near, execute, weights

import main
from datasets import DATASETS
from datasets.images import ImageList
from datasets.loading.crops import TrainCrop
from datasets.loading.loader import Loader
from datasets.loading.sampler import TrainBatchSampler
from models import load_run
from models.peft import METHODS
from trainer import Trainer
from utils.device.distributed import Distributed
from utils.device.environment import describe
from utils.run import checkpoint
from utils.run.checkpoint import trainable_tensors

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
# of the sum of updates of three steps: its distance from that in float32 on the CPU, as a share of its length
TOLERANCE = {"fp32": 1e-3, "bf16": 0.15, "fp16": 0.05}


def needs_gpu(test):
    """Marks a test that needs a GPU."""
    skipped = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and torch finds none here")
    return pytest.mark.gpu(skipped(test))


@pytest.fixture
def cuda():
    return torch.device("cuda", 0)


# ---- numbers ----


def three_steps(cfg):
    """The losses of three steps on one batch, and the updates of the trainable parameters, on the CPU."""
    with Trainer(cfg) as run:
        start, losses = weights(run), []
        batch = next(run.train_batches())
        for _ in range(20):  # fp16 skips a step while its scale is too large, and changes nothing then
            scale = run.scaler.get_scale()
            loss = float(run.train_step(*batch)[0])
            losses += [loss] if run.scaler.get_scale() >= scale else []
            if len(losses) == 3:
                break
        moved = [(tensor - start[name]).flatten() for name, tensor in weights(run).items()]
        return losses, torch.cat(moved).cpu()


@pytest.mark.parametrize("precision", TOLERANCE)
def test_three_steps_are_those_of_the_cpu_in_float32(config, device, precision):
    """LIFT+; a CPU uses bf16 instead of fp16, and float32 if it has no bf16."""
    losses, moved = three_steps(config("prec_train", precision, "lr", 0.002, "output_dir", "device"))
    expected_losses, expected = three_steps(config("gpu", -1, "lr", 0.002, "output_dir", "cpu"))
    tolerance = max(TOLERANCE[precision], TOLERANCE["bf16"] if device == CPU and precision == "fp16" else 0)
    assert losses == pytest.approx(expected_losses, rel=tolerance / 5)
    assert expected_losses[2] < expected_losses[0]
    assert (moved - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("tte", [False, True])
def test_logits_and_predictions_are_those_of_the_cpu(config, device, few_images, tte):
    cfg = config("num_epochs", 1, "tte", tte, "save_logits", True, "batch_size", 8, "lr", 0.001)
    results = execute(Trainer(cfg))
    assert results["device"] == describe(device)
    images = DATASETS["digits_lt"]().test.images
    found, expected = (torch.from_numpy(load_run(cfg.output_dir, where).logits(images)) for where in (device, CPU))
    assert_near(found, expected, 1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_gradients_of_the_cpu(device, method):
    found, expected = (gradients(method, where) for where in (device, CPU))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm(), name


# ---- waiting ----


@needs_gpu
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_nothing_in_a_step_waits_for_the_card(config, cuda, precision, workers, optimizer):
    cfg = config("prec_train", precision, "num_workers", workers, "optimizer", optimizer, "accum_step", 2)
    with Trainer(cfg) as run:
        batches = run.train_batches()
        run.train_step(*next(batches))  # starts libraries
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                run.counters += run.train_step(*next(batches))
        finally:
            torch.cuda.set_sync_debug_mode("default")
            batches.close()


@needs_gpu
def test_the_debug_mode_finds_what_waits(cuda):
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones(2, device=cuda).sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- copies ----


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_while_the_steps_lag_behind(device, workers):
    """With a long queue of steps, batches are released at once, and host and card reuse their memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 40, 40, 3), dtype=np.uint8)
    images = ImageList.of_pixels(pixels, np.arange(64) % 7)

    def read(where, after=lambda: None):
        steps = TrainBatchSampler(64, 16, seed=3, num_epochs=5)
        for crops, labels in Loader(images, TrainCrop(32, seed=3, num_epochs=5), steps, where, workers):
            assert {crops.device.type, labels.device.type} == {where.type}
            after()
            yield crops.clone(), labels.clone()

    busy = (lambda: torch.cuda._sleep(10**7)) if device.type == "cuda" else lambda: None  # some milliseconds
    found, expected = list(read(device, busy)), list(read(CPU))
    assert len(found) == len(expected) == 20
    for pair, reference in zip(found, expected, strict=True):
        assert all(torch.equal(a.cpu(), b) for a, b in zip(pair, reference, strict=True))


# ---- bits ----

DETERMINISTIC = """
import sys
sys.path[:0] = ["tests", "."]
from gpu_bits import differing
from utils.device.device import make_deterministic
make_deterministic()
print("differing", differing(sys.argv[1]))
"""


@needs_gpu
def test_deterministic_kernels_give_the_same_bits(cuda):
    """Every method, in a new process, as cuBLAS reads its workspace when it starts. An operation without such a kernel
    raises an error there."""
    done = subprocess.run(
        [sys.executable, "-c", DETERMINISTIC, "cuda"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.stdout.splitlines()[-1:] == ["differing []"], done.stdout[-2000:] + done.stderr[-4000:]


def command(folder, *options, launcher=(), gpu=0):
    """Runs main.py on the digits in a separate folder; returns the tensors of its checkpoint."""
    arguments = ["-d", "digits_lt", "-b", "clip_tiny", "-m", "lift+", "num_epochs", "1", "report", "False", "gpu", gpu]
    words = [sys.executable, *launcher, ROOT / "main.py", *arguments, "output_dir", folder, *options]
    done = subprocess.run([str(word) for word in words], cwd=folder.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return checkpoint.load(folder / "checkpoint.safetensors")[0]


@needs_gpu
def test_a_deterministic_run_repeats_bit_for_bit(cuda, tmp_path):
    first, second = (command(tmp_path / name, "deterministic", "True") for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)


# ---- memory ----


@needs_gpu
def test_out_of_memory_names_the_remedy(cuda, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-5)
    try:
        status = main.main(["-d", "digits_lt", "-b", "clip_tiny", "-m", "lift+", "num_epochs", "1", "gpu", "0"])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    error = capfd.readouterr().err
    assert status == 1
    assert "failed: the GPU has too little free memory" in error and "accum_step None" in error


@needs_gpu
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_micro_batches_fit_in_the_card(config, cuda, precision):
    with Trainer(config("accum_step", "None", "prec_train", precision)) as run:
        assert run.micro_batch_size == 16
        run.train_step(*next(run.train_batches()))


# ---- runs ----


def test_a_resumed_run_is_an_uninterrupted_one(config, device, few_images):
    tensors = []
    for folder, stops in (("whole", ()), ("parts", (1,))):
        cfg = config("output_dir", folder, "optimizer", "AdamW", "lr", 0.001)
        for epochs in stops:
            with Trainer(cfg) as run:
                run.fit(epochs)
        run = Trainer(cfg)
        execute(run)
        tensors.append({name: tensor.cpu() for name, tensor in weights(run).items()})
    for name, expected in tensors[0].items():
        assert_near(tensors[1][name], expected, 1e-3)


@needs_gpu
def test_fp16_resumes_with_its_scale(config, cuda, few_images):
    cfg = config("prec_train", "fp16", "print_freq", 1)
    with Trainer(cfg) as run:
        run.fit(1)
        scale = run.scaler.get_scale()
    with Trainer(cfg) as run:
        run.fit(1)  # only reads the progress
        assert run.scaler.get_scale() == scale
        run.fit()


def test_gradients_of_several_processes(device, tmp_path):
    """Gradients and sums over nccl on one card, or gloo: one process, which acts as one of two."""
    distributed = Distributed()
    distributed.size = 2
    options = {"init_method": f"file://{tmp_path}/store", "rank": 0, "world_size": 1}
    if device.type == "cuda":
        device = torch.device("cuda", 0)
        options |= {"device_id": device}
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **options)
    try:
        assert distributed.sum(3, device).tolist() == 3
        assert distributed.sum(torch.tensor([1.0, 2.0], device=device), device).tolist() == [1.0, 2.0]
        with distributed.main_process_first():
            pass
        model = model_with("adaptformer").to(device).train()
        images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images, trained = images.to(device), trainable_tensors(model)
        model(images).square().sum().backward()
        expected = {name: parameter.grad for name, parameter in trained.items()}
        model.zero_grad()
        distributed.broadcast(trained.values())
        for part in images.split(2):
            model(part).square().sum().backward()
        distributed.sum_gradients(trained.values())
        for name, parameter in trained.items():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-4)
    finally:
        dist.destroy_process_group()


@needs_gpu
def test_torchrun_with_one_process_is_a_plain_run(cuda, tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1")
    plain = command(tmp_path / "plain", "deterministic", "True")
    started = command(tmp_path / "torchrun", "deterministic", "True", launcher=torchrun)
    assert all(torch.equal(plain[name], started[name]) for name in plain)


@needs_gpu
@pytest.mark.slow
def test_compiled_steps_are_the_steps(config, cuda, capfd):
    """By Inductor and Triton; it takes a minute."""
    plain, moved_plain = three_steps(config("compile", "never", "output_dir", "plain"))
    compiled, moved = three_steps(config("compile", "always", "output_dir", "compiled"))
    assert "compiling failed" not in capfd.readouterr().out
    assert compiled == pytest.approx(plain, rel=1e-4)
    assert (moved - moved_plain).norm() <= 1e-2 * moved_plain.norm()
