"""The fast path is the plain computation: its kernels, what it leaves out, its compiled blocks, its 200 steps."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_near, execute, normal_images
from oracles import PlainClip
from torch import nn
from torch.profiler import ProfilerActivity, profile

from datasets.base import ImageList
from datasets.loading.loader import Loader
from datasets.loading.sampler import sequential_batches
from models import compile as compilation
from models import peft, precision
from models.backbones import BACKBONES, kernels
from models.backbones.resnet import ResNet
from models.backbones.text import TextTransformer
from models.backbones.tokenizer import class_prompts, tokenize
from models.backbones.vit import VisionTransformer
from models.weights.load import load_backbone
from trainer import Trainer
from utils.device.precision import precision_name
from utils.run import checkpoint

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"
CLIP_TINY = "asset:clip_tiny.safetensors"


def image_tower(depth=4, **methods):
    torch.manual_seed(0)
    tower = VisionTransformer(64, depth, 8, 32, clip=True)
    peft.attach(tower, peft.methods_from_keys(methods), num_classes=10)
    return tower.train()


def run_of(cfg):
    run = Trainer(cfg)
    return run, execute(run)


# ---- kernels ----


def kernels_of(function):
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        function()
    return {event.key: event.count for event in recorded.key_averages()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_runs_in_the_flash_kernel_or_in_bf16_as_products(dtype):
    """In every block of both towers, forward and backward, the last block's single query too."""
    image, text = image_tower(3, adaptformer=True, adaptformer_dim=2), TextTransformer(64, 2)
    for tower, inputs in ((image, normal_images(2, 32)), (text, tokenize(["a photo of a cat."]))):
        precision.FrozenWeights(tower).cast(dtype)
        found = kernels_of(functools.partial(lambda f, x: f(x).float().sum().backward(), tower.to(dtype), inputs))
        assert not [name for name in found if "attention_math" in name]
        if dtype == torch.bfloat16:
            assert FLASH not in found
            assert found["aten::_softmax"] == len(tower.blocks)
        else:
            assert found[FLASH] == len(tower.blocks)
            assert found[f"{FLASH}_backward"] >= len(tower.blocks) - 1  # nothing trains before the first attention


@pytest.mark.parametrize(("queries", "causal"), [(9, False), (9, True), (1, False)])
def test_attention_as_products_is_attention(queries, causal):
    """Against torch's own in float64, value and gradients, within bf16's rounding."""
    torch.manual_seed(0)
    given = [torch.randn(3, 2, n, 16).bfloat16() for n in (queries, 9, 9)]
    grad, results = torch.randn(3, 2, queries, 16), []
    for function, dtype in ((kernels.attend, torch.bfloat16), (F.scaled_dot_product_attention, torch.float64)):
        q, k, v = (x.clone().to(dtype).requires_grad_() for x in given)
        out = function(q, k, v, **({"causal": causal} if dtype == torch.bfloat16 else {"is_causal": causal}))
        out.backward(grad.to(dtype))
        results.append([out, q.grad, k.grad, v.grad])
    for ours, exact in zip(*results, strict=True):
        assert_near(ours.double(), exact, 2e-2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trains", [None, "weight", "bias"])
@pytest.mark.parametrize("rows", [(16, 128), (3, 5)])
def test_linear_is_linear(dtype, tolerance, bias, trains, rows):
    """Against a product in float64: value and gradients, many rows and few; large frozen ones leave F.linear."""
    torch.manual_seed(0)
    x, w, b = (torch.randn(size).to(dtype) for size in ((*rows, 24), (40, 24), 40))
    x.requires_grad_()
    w.requires_grad_(trains == "weight")
    b = b.requires_grad_(trains == "bias") if bias else None
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        found = kernels_of(lambda: kernels.linear(x, w, b))
        out = kernels.linear(x, w, b)
    out[..., :8] += 0  # in place, as LoRA adds to q and v
    grad = torch.randn(out.shape)
    out.backward(grad.to(dtype))
    assert_near(out.double(), x.double() @ w.double().T + (0 if b is None else b.double()), tolerance)
    assert_near(x.grad.double(), grad.to(dtype).double() @ w.double(), tolerance)
    if trains == "weight":
        assert_near(w.grad.double(), grad.double().flatten(0, 1).T @ x.double().flatten(0, 1), tolerance)
    elif trains is None or b is None:
        assert x.shape not in kept
        convolves = rows[0] * rows[1] >= kernels.MIN_ROWS[dtype] and kernels.X86
        assert ("aten::convolution" in found) == convolves
        if dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported():  # of this CPU
            assert ("aten::mkldnn_convolution" in found) == convolves
    else:
        assert_near(b.grad.double(), grad.double().flatten(0, 1).sum(0), tolerance)


def test_quick_gelu_and_its_derivative():
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(kernels.quick_gelu(x).sum(), x)[0]
    plain = x * torch.sigmoid(1.702 * x)
    assert_near(kernels.quick_gelu(x), plain, 1e-12)
    assert_near(ours, torch.autograd.grad(plain.sum(), x)[0], 1e-12)
    assert torch.autograd.gradcheck(kernels.quick_gelu, x[::100].detach().requires_grad_())


@pytest.mark.parametrize("name", ["clip_rn50", "in1k_rn50"])
def test_convolutions_run_channels_last(name):
    g = BACKBONES[name].geometry
    tower = ResNet((1, 1, 1, 1), 8, 96, joint=16 if g.clip else 0)
    tower.load_state_dict(tower.state_dict())  # as every backbone is made
    maps = []

    def keep(module, args, out):
        maps.extend([args[0], out])

    for module in tower.net.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
            module.register_forward_hook(keep)
    with torch.no_grad():
        tower(normal_images(2, 96))
    assert len(maps) > 20
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)


class CountsThreads:
    """A crop that tells how many threads the process computes with that makes it."""

    resolution = 1

    def of_batch(self, images, step):
        return torch.full((len(step), 3, 1, 1), torch.get_num_threads(), dtype=torch.uint8)


def test_workers_take_one_thread_and_the_main_process_keeps_its_own():
    images = ImageList.of_pixels(np.zeros((4, 1, 1, 3), np.uint8), np.zeros(4, np.int64))
    mine = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        batches = list(Loader(images, CountsThreads(), sequential_batches(np.arange(4), 2), CPU, num_workers=2))
        assert [int(x.max()) for x, _ in batches] == [1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(mine)


FAULTS = """
import ctypes, os, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages (PR_SET_THP_DISABLE): they would hide most faults
from utils.device.allocator import retain_freed_memory
if sys.argv[1] == "kept":
    retain_freed_memory()
import torch
def faults(size, rounds=12):  # until the gaps between tensors are filled
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
here, (reading, writing) = faults(2**24), os.pipe()
if not os.fork():  # as a worker, with an image larger than all that is free
    os.write(writing, str(faults(2**27, 2)).encode())
    os._exit(0)
print(here, os.read(reading, 99).decode())
"""


def test_memory_is_kept_for_the_next_step():
    """A large tensor's pages are there again for the next one; not so in a worker, nor where all is left alone."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # as in a worker: a fork loses threads
    ways = ("kept", "left alone")
    processes = [subprocess.Popen([sys.executable, "-c", FAULTS, way], env=env, stdout=subprocess.PIPE) for way in ways]
    found = {way: process.communicate()[0] for way, process in zip(ways, processes, strict=True)}
    assert [process.returncode for process in processes] == [0, 0]
    (kept, worker), (left_alone, _) = (map(int, found[way].split()) for way in ("kept", "left alone"))
    assert kept < 100 < min(worker, left_alone)


# ---- what is left out ----


def test_nothing_is_kept_before_the_first_trained_tensor():
    """With a method in the last of four blocks alone, the others leave no graph and save no byte for it."""

    def run(**methods):
        tower = image_tower(4, adaptformer=True, adaptformer_dim=2, **methods)
        saved, graphs, running = dict.fromkeys([*tower.blocks, None], 0), [], [None]

        def enter(block, args):
            running[0] = block

        def leave(block, args, out):
            running[0] = None
            graphs.append(out.grad_fn is not None)

        def pack(tensor):
            saved[running[0]] += tensor.numel() * tensor.element_size()
            return tensor

        for block in tower.blocks:
            block.register_forward_pre_hook(enter)
            block.register_forward_hook(leave)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            tower(normal_images(2, 32)).sum().backward()
        return graphs, [saved[block] for block in tower.blocks]

    graphs, saved = run(adaptformer_layers=1)
    assert graphs == [False, False, False, True]
    assert saved[:3] == [0, 0, 0]
    assert saved[3] > 0
    graphs, saved = run()
    assert graphs == [True] * 4
    assert min(saved) > 0


# ---- compiled blocks ----


@pytest.fixture
def compiles(monkeypatch):
    """Compiles as a run does, but to torch's own kernels: seconds, not minutes, and no C++ compiler. Counts graphs."""
    import torch._dynamo

    torch._dynamo.reset()
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    start = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"] - start


METHODS = {
    "adaptformer": {"adaptformer_dim": 2},
    "lora": {"lora_dim": 2},
    "aft": {"aft_ratio": 0.1, "aft_loc": "all", "aft_seed": 0},
    "pt": {"pt_len": 3},
    "ssf": {"ssf_loc": "all"},
}


@pytest.mark.parametrize("method", METHODS)
def test_compiled_blocks_are_the_blocks(method, compiles):
    """Features and gradients of a step, of a smaller one, and of a test; equal blocks share a graph."""
    tower = image_tower(3, **{method: True}, **METHODS[method])

    def step(images):
        tower.zero_grad()
        features = tower(images)
        features.square().sum().backward()
        return [features.detach(), *(p.grad for p in tower.parameters() if p.requires_grad)]

    batches = normal_images(5, 32), normal_images(2, 32, seed=1)
    names, plain = list(tower.state_dict()), [step(images) for images in batches]
    compilation.compile_blocks(tower, "always", 0, CPU, lambda line: None)
    assert list(tower.state_dict()) == names
    for images, expected in [*zip(batches, plain, strict=True)] * 2:
        for found, value in zip(step(images), expected, strict=True):
            assert torch.allclose(found, value, rtol=1e-4, atol=1e-5 * value.abs().max())
    with torch.inference_mode():
        assert torch.allclose(tower.eval()(batches[0]), plain[0][0], rtol=1e-4, atol=1e-5)
    assert compiles() == 3  # the first block, those between, the last


@pytest.mark.parametrize(("options", "method"), [(("accum_step", 2), "lift+"), (("coop_ctx_len", 2), "coop")])
def test_nothing_is_compiled_after_the_first_step(config, compiles, options, method):
    """Not for the last, smaller step (6 of 342 images), a second epoch or a test; and the run's result is the same."""
    options = (*options, "lr", 0.002, "num_epochs", 2)
    plain, _ = run_of(config(*options, "compile", "never", "output_dir", "plain", method=method))
    assert compiles() == 0
    seen, run = [], Trainer(config(*options, "compile", "always", method=method))
    run.loss.register_forward_pre_hook(lambda *_: seen.append(compiles()))
    execute(run)
    first = run.cfg.accum_step  # micro-batches of the first step
    assert len(seen) >= 44 * first - 2
    assert seen[first] >= 2
    assert {*seen[first:], compiles()} == {seen[first]}
    plain, compiled = (checkpoint.load(r.run_dir.path / "checkpoint.safetensors")[0] for r in (plain, run))
    assert plain.keys() == compiled.keys()
    assert all(torch.allclose(plain[name], compiled[name], atol=1e-5) for name in plain)


def test_a_run_goes_on_where_nothing_can_be_compiled(monkeypatch):
    def no_compiler(graph, inputs):
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(compilation, "BACKEND", no_compiler)
    tower, images, lines = image_tower(3, lora=True, lora_dim=2), normal_images(2, 32), []
    expected = tower(images)
    compilation.compile_blocks(tower, "always", 0, CPU, lines.append)
    for _ in range(2):
        assert torch.equal(tower(images), expected)
    assert lines[0] == "compiles  3 transformer blocks for training"
    assert len(lines) == 2
    assert "no C++ compiler" in lines[1]
    assert "\n" not in lines[1]


def test_short_runs_are_not_compiled():
    """Estimated seconds against those that it takes: iNaturalist for 15 epochs on a GPU, not ImageNet-LT for 5."""
    with torch.device("meta"):
        tower = VisionTransformer(768, 12, 16, 224, clip=True)
    gpu = torch.device("cuda")
    assert compilation.earns_back(tower, 15 * 437_513, gpu)
    assert not compilation.earns_back(tower, 5 * 115_846, gpu)
    assert compilation.earns_back(tower, 5 * 115_846, CPU)
    assert not compilation.earns_back(tower, 342, CPU)
    for when, images in (("auto", 342), ("never", 10**9)):
        compilation.compile_blocks(tower, when, images, CPU, lambda line: pytest.fail(line))
        assert "forward" not in vars(tower.blocks[0])


# ---- 200 steps ----


def plain_head(names):
    """Weights of the semantic head, from all 77 tokens of each prompt."""
    clip, _ = load_backbone("clip_tiny", CLIP_TINY)
    p = {name: value.detach() for name, value in clip.named_parameters()}
    return F.normalize(PlainClip(p).texts(tokenize(class_prompts(names))) @ p["image_projection"].T, dim=-1)


def test_200_steps_are_those_of_the_plain_path(config):
    """Losses within 1e-4 of the plain model's, trained by autograd and SGD on the same batches; the same accuracy."""
    run = Trainer(config("weights", CLIP_TINY, "batch_size", 8, "num_epochs", 5))
    start = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    images, batches, losses = [], [], []
    run.parallel.register_forward_pre_hook(lambda module, args: images.append(args[0]))

    def record(module, args, out):
        batches.append((images[-1], args[1], run.optimizer.param_groups[0]["lr"]))
        losses.append(out.mean().item())

    run.loss.register_forward_hook(record)
    results = execute(run)
    assert len(batches) >= 200
    start["head.weight"] = plain_head(run.data.classnames)
    trained = set(checkpoint.trainable_tensors(run.model))
    plain = PlainClip({name: value.requires_grad_(name in trained) for name, value in start.items()})
    optimizer = torch.optim.SGD([start[name] for name in trained], 1, momentum=0.9, weight_decay=5e-4)
    log_prior = torch.from_numpy(run.data.class_counts / run.data.class_counts.sum()).float().log()
    for (images, labels, lr), found in zip(batches, losses, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        loss = F.cross_entropy(plain(images) + log_prior, labels)
        assert found == pytest.approx(loss.item(), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = Loader(run.data.test, run.test_crops, sequential_batches(np.arange(500), 500), CPU, 0)
    with torch.no_grad():
        right = [(plain(images[:, 0]).argmax(1) == labels).float().mean() for images, labels in test]
    assert 100 * float(right[0]) == pytest.approx(results["accuracy"]["overall"], abs=0.201)  # one image of 500


def test_bf16_is_as_accurate_as_float32(config, monkeypatch):
    """Over five seeds, frozen weights stored in bf16 and trained ones in float32, on a CPU without bf16 as well."""

    options = ("weights", CLIP_TINY, "num_epochs", 1, "batch_size", 32)

    def accuracy(precision, seed):
        monkeypatch.setattr("trainer.pick_precision", lambda wanted, device: (precision, None))
        folder = f"{precision_name(precision)}_{seed}"
        run, results = run_of(config(*options, "seed", seed, "output_dir", folder))
        stored = {(parameter.requires_grad, parameter.dtype) for parameter in run.model.parameters()}
        assert stored == {(True, torch.float32), (False, precision)}
        return results["accuracy"]["overall"]

    exact, rounded = ([accuracy(p, seed) for seed in range(5)] for p in (torch.float32, torch.bfloat16))
    assert abs(np.mean(exact) - np.mean(rounded)) < 1
    assert np.mean(exact) > 80
