"""From tokens to the feature: the last block computes only one token if possible, and learnt tokens are dropped."""

import copy

import pytest
import torch
from family_models import FAMILIES, OPEN_CLIP, pair
from helpers import assert_near, normal_images, randomize

from models import peft
from models.backbones.pooling import AttentionPooling, Mean, Pooling


def whole_forward(tower, images):
    """The feature from every token of every block."""
    x = tower.norm_pre(tower.embed(images))
    for block in tower.blocks:
        x = block(x)
    patches = tower.config.side**2
    first, last = x[:, : tower.num_first], x[:, -patches:]  # without the prompts of a method
    kind, norm = tower.config.pooling.kind, tower.norm
    if kind == "token":
        return norm(x)[:, 0]
    if kind == "mean":
        return norm(last).mean(1) if tower.config.final_norm == "tokens" else norm(last.mean(1))
    return tower.pooling(norm(torch.cat([first, last], dim=1) if tower.config.pooling.first_tokens else last))


@pytest.mark.parametrize("methods", [{}, {"pt": {"len": 3}, "adaptformer": {"dim": 2}}], ids=["bare", "with prompts"])
@pytest.mark.parametrize("name", [*FAMILIES, *OPEN_CLIP])
@torch.no_grad()
def test_the_last_block_computes_one_token_alone_for_the_class_token_and_all_else(name, methods):
    tower = copy.deepcopy(pair(name).ours.image)
    peft.attach(tower, methods, num_classes=10)
    for block in tower.blocks:
        randomize(block.side)
    images = normal_images(2, tower.resolution)
    lengths = []
    handle = tower.blocks[-1].register_forward_hook(lambda module, args, output: lengths.append(output.shape[1]))
    found = tower(images)
    handle.remove()
    assert_near(found, whole_forward(tower, images))
    tokens = tower.num_tokens + (3 if methods else 0)
    assert lengths == [1 if tower.config.pooling.kind == "token" else tokens]


@pytest.mark.parametrize("extra", [0, 2])
def test_the_mean_is_of_the_last_tokens(extra):
    x = torch.randn(2, 3 + extra + 4, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([sum(image[-4:]) / 4 for image in x])
    assert torch.allclose(Mean(num_patches=4)(x), expected, atol=1e-6)


@pytest.mark.parametrize("first_tokens", [False, True])
@torch.no_grad()
def test_attention_pooling_is_its_formula_without_learnt_tokens(first_tokens):
    """h = sum_i softmax(q k_i / sqrt(d)) v_i projected, then h + fc2(gelu(fc1(norm(h)))), token by token."""
    config = Pooling("attention", heads=2, hidden=6, first_tokens=first_tokens)
    pool: AttentionPooling = randomize(config.build(8, 3, 4, 1e-6).double())
    x = torch.randn(2, 3 + 2 + 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept = [*(range(3) if first_tokens else ()), *range(5, 9)]  # two learnt tokens at 3 and 4
    q = (pool.q.weight @ pool.latent + pool.q.bias).view(2, 4)
    expected = []
    for image in x:
        keys, values = (pool.kv.weight @ image[kept].T).T.add(pool.kv.bias).chunk(2, dim=1)
        mixed = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            weights = (keys[:, part] @ q[head] / 2).softmax(0)
            mixed.append(weights @ values[:, part])
        h = pool.proj.weight @ torch.cat(mixed) + pool.proj.bias
        normed = (h - h.mean()) / (h.var(correction=0) + 1e-6).sqrt() * pool.norm.weight + pool.norm.bias
        hidden = pool.mlp.fc1.weight @ normed + pool.mlp.fc1.bias
        hidden = hidden * (1 + (hidden / 2**0.5).erf()) / 2
        expected.append(h + pool.mlp.fc2.weight @ hidden + pool.mlp.fc2.bias)
    assert torch.allclose(pool(x), torch.stack(expected), rtol=1e-12, atol=1e-12)
