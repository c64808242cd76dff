"""Blocks that are recomputed in the backward pass: the same bits as without, in the memory of one block."""

import re

import pytest
import torch
from helpers import image_tower, normal_images, refused, resnet, train, weights

from models import checkpointing, compile
from models.backbones.text import TextConfig, TextTransformer
from models.backbones.transformer import Block
from models.peft import METHODS
from models.precision import FrozenWeights
from trainer import Trainer
from utils.device import memory
from utils.errors import ModelError

IMAGES = {torch.float32: 16, torch.bfloat16: 121}  # of 17 tokens: enough for the kernels of large products


@pytest.fixture
def computed(monkeypatch):
    """The blocks in the order in which they are computed."""
    blocks, forward = [], Block.forward

    def noted(block, *args, **options):
        blocks.append(block)
        return forward(block, *args, **options)

    monkeypatch.setattr(Block, "forward", noted)
    return blocks


def step(tower, images):
    """The features of images, and the gradient of each trainable tensor."""
    tower.zero_grad()
    features = tower(images)
    features.square().sum().backward()
    return [features.detach(), *(p.grad for p in tower.parameters() if p.requires_grad)]


@pytest.mark.parametrize("dtype", IMAGES, ids=str)
@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if "transformer" in row.targets])
def test_gradients_have_the_same_bits(method, dtype, computed):
    tower, images = image_tower(3, **{method: True}), normal_images(IMAGES[dtype], 32)
    with torch.no_grad():  # as matrices that are zero at first leave others without a gradient
        for p in filter(lambda p: p.requires_grad, tower.parameters()):
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    FrozenWeights(tower, dtype)
    plain = step(tower, images)
    assert computed == [*tower.blocks]
    assert checkpointing.checkpoint_blocks(tower) == 3
    found = step(tower, images)
    assert computed == [*tower.blocks] * 2 + [*tower.blocks][::-1]
    assert len(found) == len(plain) > 1 and all(map(torch.equal, found, plain))
    assert sum(bool(gradient.any()) for gradient in plain) > len(plain) / 2  # some entries of aft have none


@pytest.mark.parametrize("layers", [[0], [1], [2], [1, 2]])
def test_blocks_without_a_gradient_are_computed_once(layers, computed):
    """Blocks before the first trainable one, and all of them in a test."""
    tower = image_tower(4, lora=True, lora_layers=layers)
    checkpointing.checkpoint_blocks(tower)
    step(tower, normal_images(2, 32))
    assert computed == [*tower.blocks, *[*tower.blocks][: min(layers) - 1 if layers[0] else None : -1]]
    computed.clear()
    with torch.no_grad():
        tower(normal_images(2, 32))
    assert computed == [*tower.blocks]


def test_a_block_more_takes_the_memory_of_its_input():
    """17 tokens of 64 numbers per image; without recomputation, this is a small share of the memory."""
    images = normal_images(5, 32)

    def peak(depth, recomputes):
        tower = image_tower(depth, bitfit=True)
        if recomputes:
            checkpointing.checkpoint_blocks(tower)
        trainable = [p for p in tower.parameters() if p.requires_grad]
        assert tower.num_tokens == 17
        return memory.peak_bytes(lambda: torch.autograd.grad(tower(images).sum(), trainable))

    of_input = 5 * 17 * 64 * 4  # float32
    assert peak(4, recomputes=False) - peak(2, recomputes=False) > 2 * 9 * of_input
    assert peak(4, recomputes=True) - peak(2, recomputes=True) == 2 * of_input


def test_random_numbers_are_drawn_once():
    """A block with dropout: the second computation drops the same numbers."""
    towers = [image_tower(3, lora=True) for _ in range(2)]
    for tower in towers:
        for block in tower.blocks:
            block.mlp.act = torch.nn.Sequential(block.mlp.act, torch.nn.Dropout(0.5))
    checkpointing.checkpoint_blocks(towers[1])
    found = []
    for tower in towers:
        torch.manual_seed(0)
        found.append([*step(tower, normal_images(5, 32)), torch.get_rng_state()])
    assert all(map(torch.equal, *found))


def test_the_text_tower_recomputes_too(computed):
    torch.manual_seed(0)
    tower = TextTransformer(TextConfig(dim=64, depth=2, vocabulary=50, context=12)).requires_grad_(False)
    context = torch.randn(3, 12, 64, requires_grad=True)
    gradients = []
    for _ in range(2):
        features = tower.encode(context, torch.tensor([3, 5, 11]))
        gradients += torch.autograd.grad(features.square().sum(), context)
        checkpointing.checkpoint_blocks(tower)
    assert torch.equal(*gradients) and gradients[0].any()
    assert computed == [*tower.blocks, *tower.blocks, *[*tower.blocks][::-1]]


def assert_same_weights(run, other):
    a, b = weights(run), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_run_resumes_with_it_bit_by_bit(config, few_images):
    """Trained without, and with checkpointing from the second epoch on, in bf16: learnt prompts and the image tower."""
    options = ("v.lora", "True", "accum_step", 2, "lr", 0.002, "num_epochs", 2, "prec_train", "bf16")
    whole, _ = train(config("output_dir", "whole", *options, method="coop"))
    with Trainer(config("output_dir", "parts", *options, method="coop")) as run:
        run.fit(1)
    resumed, _ = train(config("output_dir", "parts", "checkpointing", "True", *options, method="coop"))
    log = (resumed.run_dir.path / "log.txt").read_text()
    assert "recompute " in log and "resuming after epoch 1" in log
    assert_same_weights(resumed, whole)


def test_accum_step_none_counts_the_smaller_memory(config, capsys):
    for checkpointed in ("False", "True"):
        Trainer(config("accum_step", "None", "checkpointing", checkpointed, "v.fft", "True")).close()
    without, recomputed = map(float, re.findall(r"images, ([\d.]+) MB each", capsys.readouterr().out))
    assert 0 < recomputed < without


@pytest.mark.slow
def test_compiled_blocks_are_recomputed(monkeypatch):
    """The bits are those of compiled blocks that are saved for the backward pass."""
    import torch._dynamo

    torch._dynamo.reset()
    monkeypatch.setattr(compile, "BACKEND", "aot_eager")
    tower, images = image_tower(1, lora=True), normal_images(5, 32)
    compile.compile_blocks(tower, "always", 0, 5, torch.device("cpu"), lambda line: None)
    plain = step(tower, images)
    checkpointing.checkpoint_blocks(tower)
    assert all(map(torch.equal, step(tower, images), plain))


def test_resnets_are_refused():
    with refused(ModelError, kind="checkpointing_of_a_resnet"):
        checkpointing.checkpoint_blocks(resnet((1, 1, 1, 1), 8, 32))
