"""The towers against open_clip's and timm's own modules with the same weights, and the block against its equation."""

import helpers
import pytest
import torch
import torch.nn.functional as F
from helpers import CLIP_RESOLUTION, assert_near, image_tower, moved, normal_images, randomize
from oracles import block_formula
from torch import nn

from models.backbones.tokenizer import tokenize
from models.backbones.transformer import Block, QuickGELU
from models.precision import FrozenWeights

PROMPTS = ["a cat.", "a photo of a very small dog that sleeps in the sun.", "x"]


@pytest.fixture(scope="module")
def clip_pair(tmp_path_factory):
    return helpers.clip_pair(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def vit_pair(tmp_path_factory):
    return helpers.vit_pair(tmp_path_factory.mktemp("weights"))


@torch.no_grad()
def test_clip_image_tower_is_open_clips(clip_pair, device):
    theirs, ours = clip_pair[0], moved(clip_pair[1], device)
    images = normal_images(3, CLIP_RESOLUTION)
    features = ours.image(images.to(device))
    assert_near(features @ ours.image_projection, theirs.encode_image(images))
    projection, theirs.visual.proj = theirs.visual.proj, None
    try:
        assert_near(features, theirs.encode_image(images))  # before the projection, too
    finally:
        theirs.visual.proj = projection


@torch.no_grad()
def test_clip_text_tower_is_open_clips(clip_pair):
    import open_clip

    theirs, ours = clip_pair
    tokens = open_clip.get_tokenizer("ViT-B-16")(PROMPTS)
    assert torch.equal(tokens, tokenize(PROMPTS))
    assert_near(ours.text(tokens) @ ours.text_projection, theirs.encode_text(tokens))


@torch.no_grad()
def test_text_is_cut_at_the_longest_prompt_and_loses_nothing(clip_pair):
    theirs, ours = clip_pair
    lengths = []
    handle = ours.text.blocks[0].register_forward_hook(lambda module, args, output: lengths.append(args[0].shape[1]))
    tokens = tokenize(PROMPTS)
    together = ours.text(tokens)
    alone = torch.cat([ours.text(row[None]) for row in tokens])
    handle.remove()
    words = [int((row != 0).sum()) for row in tokens]  # start, words, end
    assert lengths == [max(words), *words]
    assert_near(alone, together)
    assert_near(alone @ ours.text_projection, theirs.encode_text(tokens))  # open_clip computes all 77 tokens


@torch.no_grad()
def test_class_names_become_open_clips_text_features(clip_pair, device):
    import open_clip

    theirs, ours = clip_pair[0], moved(clip_pair[1], device)
    names = ["cat", "fire_truck", "Mimosa pudica L.", *(f"thing {i}" for i in range(300))]  # more than one part
    prompts = [f"a photo of a {name.replace('_', ' ')}." for name in names]
    expected = theirs.encode_text(open_clip.get_tokenizer("ViT-B-16")(prompts), normalize=True)
    found = ours.encode_classnames(names)
    assert found.dtype == torch.float32
    assert_near(found, expected)
    assert torch.allclose(found.norm(dim=1).cpu(), torch.ones(len(names)))


@torch.no_grad()
def test_timm_tower_is_timms(vit_pair, device):
    theirs, ours = vit_pair
    images = normal_images(3, 64)
    assert_near(
        moved(ours.image, device)(images.to(device)),
        theirs.forward_head(theirs.forward_features(images), pre_logits=True),
    )
    assert ours.text is None


@torch.no_grad()
def test_attention_is_four_dimensional(clip_pair, monkeypatch):
    """With 3-D tensors, scaled_dot_product_attention does not use its fused kernels."""
    _, ours = clip_pair
    shapes, attention = [], F.scaled_dot_product_attention

    def spy(q, k, v, **options):
        shapes.append((q.shape, k.shape, v.shape))
        return attention(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    ours.image(normal_images(2, CLIP_RESOLUTION))
    whole, one = (2, 2, 17, 64), (2, 2, 1, 64)
    assert shapes == [(whole,) * 3, (whole,) * 3, (one, whole, whole)]  # of the last block, only the class token
    shapes.clear()
    ours.text(tokenize(["x"]))
    assert shapes == [((1, 1, 3, 64),) * 3] * 2


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
@pytest.mark.parametrize("pair", ["clip_pair", "vit_pair"])
@torch.no_grad()
def test_frozen_tower_in_half_precision_stays_close(pair, dtype, tolerance, request, device):
    tower = moved(request.getfixturevalue(pair)[1].image.requires_grad_(False), device)
    images = normal_images(4, 64).to(device)
    exact = tower(images)
    frozen = FrozenWeights(tower)
    frozen.cast(dtype)
    rounded = tower(images)
    frozen.cast(torch.float32)
    assert rounded.dtype == dtype
    distance = ((rounded.float() - exact).norm(dim=1) / exact.norm(dim=1)).max()
    assert 1e-5 < distance < tolerance  # it was rounded, and not much
    assert torch.equal(tower(images), exact)  # the originals came back


class Square(nn.Module):
    """A module for a slot: x^2 / 4."""

    def forward(self, x):
        return x * x / 4


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("eps", [1e-5, 1e-1])
@pytest.mark.parametrize("activation, quick_gelu", [(QuickGELU(), True), (nn.GELU(), False)])
@torch.no_grad()
def test_block_is_its_equation(activation, quick_gelu, causal, eps, device):
    """x <- prompt(x);  x <- x + Attn(LN1(x));  x <- x + MLP(LN2(x)) + side(x)."""
    block = randomize(Block(12, 3, activation, eps, causal).double())
    block.prompt, block.side = Square(), Square()
    x = torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    extras = {
        "prompt": [lambda tokens, block: [(kind, row * row / 4) for kind, row in tokens]],
        "side": [lambda row, block: row * row / 4],
    }
    p = dict(block.named_parameters())
    for image, found in zip(x, moved(block, device)(x.to(device)).cpu(), strict=True):
        tokens = [("token", row) for row in image]
        expected = [row for _, row in block_formula(tokens, p, 3, quick_gelu, eps, extras, causal)]
        assert torch.allclose(found, torch.stack(expected), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_block_of_the_first_token_alone_is_the_same_block():
    block = randomize(Block(12, 3, QuickGELU()).double())
    block.prompt, block.side = Square(), Square()
    x = torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(block(x, first_only=True), block(x)[:, :1], rtol=1e-12, atol=1e-12)


def test_nothing_is_kept_before_the_first_trained_tensor():
    """With a method only in the last of four blocks, the others build no graph and save nothing for backward."""

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
