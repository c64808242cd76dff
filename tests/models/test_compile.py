"""Compiled blocks compute the same as the blocks, and nothing is compiled after the first step."""

import pytest
import torch
from cases import FULL
from helpers import SMALL_METHODS, execute, image_tower, normal_images, train, vit

from models import compile as compilation
from trainer import Trainer
from utils.run import checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def compiles(monkeypatch):
    """Compiles as a run does, but to torch's own kernels: in seconds, without a C++ compiler. Counts graphs."""
    import torch._dynamo

    torch._dynamo.reset()
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    start = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"] - start


ALL = "+".join(SMALL_METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("methods", [ALL, *SMALL_METHODS] if FULL else [ALL])
def test_compiled_blocks_are_the_blocks(methods, compiles):
    """Features and gradients of a step, of a smaller one, and of a test; equal blocks share a graph."""
    options = {key: value for method in methods.split("+") for key, value in SMALL_METHODS[method].items()}
    tower = image_tower(3, **dict.fromkeys(methods.split("+"), True), **options)

    def step(images):
        tower.zero_grad()
        features = tower(images)
        features.square().sum().backward()
        return [features.detach(), *(p.grad for p in tower.parameters() if p.requires_grad)]

    batches = normal_images(5, 32), normal_images(2, 32, seed=1)
    names, plain = list(tower.state_dict()), [step(images) for images in batches]
    compilation.compile_blocks(tower, "always", 0, 5, CPU, lambda line: None)
    assert list(tower.state_dict()) == names
    for images, expected in [*zip(batches, plain, strict=True)] * 2:
        for found, value in zip(step(images), expected, strict=True):
            assert torch.allclose(found, value, rtol=1e-4, atol=1e-5 * value.abs().max())
    with torch.inference_mode():
        assert torch.allclose(tower.eval()(batches[0]), plain[0][0], rtol=1e-4, atol=1e-5)
    assert compiles() == 3  # the first block, those between, the last


RUNS = [(("accum_step", 2, "coop_ctx_len", 2, "v.lora", True), "coop")]  # both towers have compiled blocks
if FULL:
    RUNS += [(("accum_step", 2), "lift+"), (("coop_ctx_len", 2), "coop")]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "method"), RUNS)
def test_nothing_is_compiled_after_the_first_step(config, compiles, few_images, options, method):
    """Not for the last, smaller step (5 of 69 images), a second epoch or a test; and the run's result is the same."""
    options = (*options, "lr", 0.002, "num_epochs", 2)
    plain, _ = train(config(*options, "compile", "never", "output_dir", "plain", method=method))
    assert compiles() == 0
    seen, run = [], Trainer(config(*options, "compile", "always", method=method))
    run.loss.register_forward_pre_hook(lambda *_: seen.append(compiles()))
    execute(run)
    first = run.cfg.accum_step  # micro-batches of the first step
    assert len(seen) >= 10 * first - 2
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
    compilation.compile_blocks(tower, "always", 0, 2, CPU, lines.append)
    for _ in range(2):
        assert torch.equal(tower(images), expected)
    assert lines[0] == "compiles  3 transformer blocks for training"
    assert len(lines) == 2
    assert "no C++ compiler" in lines[1]
    assert "\n" not in lines[1]


def test_short_runs_are_not_compiled():
    """By estimated seconds: for iNaturalist with 15 epochs on a GPU, but not for ImageNet-LT with 5."""
    with torch.device("meta"):
        tower = vit(768, 12, 16, 224, True)
    gpu = torch.device("cuda")
    assert compilation.earns_back(tower, 15 * 437_513, gpu)
    assert not compilation.earns_back(tower, 5 * 115_846, gpu)
    assert compilation.earns_back(tower, 5 * 115_846, CPU)
    assert not compilation.earns_back(tower, 342, CPU)
    for when, images in (("auto", 342), ("never", 10**9)):
        compilation.compile_blocks(tower, when, images, 16, CPU, lambda line: pytest.fail(line))
        assert "forward" not in vars(tower.blocks[0])
