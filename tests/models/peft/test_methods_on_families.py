"""Every fine-tuning method on the towers of every family: their first state, gradients, and learnt tokens."""

import copy

import pytest
import torch
from cases import FULL, covering
from family_models import FAMILIES, OPEN_CLIP, TEXTS, pair
from helpers import assert_near, normal_images

from models import peft
from models.peft import METHODS

LENGTH = 3
OPTIONS = {
    "fft": {},
    "bitfit": {},
    "ln_tuning": {},
    "pt": {"len": LENGTH},
    "lora": {"dim": 2},
    "lora_mlp": {"dim": 2},
    "adapter": {"dim": 16},  # so wide that some of its ReLUs are active
    "adaptformer": {"dim": 16},
    "ssf": {},
    "ssf_ln": {},
    "aft": {"ratio": 0.5},
}
CHANGING = {"pt", "ssf", "ssf_ln"}  # methods that change the features when initialised; the others do not
# initial tensors without a gradient: those before a matrix that is zero
STILL = {
    "lora": (".down.weight",),
    "lora_mlp": (".down.weight",),
    "adapter": (".norm.weight", ".norm.bias", ".down.weight", ".down.bias"),
    "adaptformer": ("side.norm.weight", "side.norm.bias", ".down.weight", ".down.bias", "side.scale"),
}
# one of each kind of text tower
TEXT_FAMILIES = ("OpenAI", "LAION", "LayerScale", "PE-Core", "MobileCLIP2-L-14", "SigLIP", "SigLIP 2")
VARIANTS = ("lift+", "lift")


def test_the_methods_are_those_that_take_a_transformer():
    assert list(OPTIONS) == [name for name, method in METHODS.items() if "transformer" in method.targets]


def image_tower(name):
    """A copy of a family's tower, and its arguments."""
    tower = copy.deepcopy(pair(name).ours.image)
    return tower, (normal_images(2, tower.resolution),)


def text_tower(name):
    tower, tokenizer = copy.deepcopy(pair(name).ours.text), pair(name).ours.tokenizer
    tokens = tokenizer(TEXTS)
    return tower, (tokens, tokenizer.ends(tokens))


def gradients(tower, arguments):
    """The feature, and the gradients of a weighted sum of it, by name."""
    tower.zero_grad()
    features = tower(*arguments)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    (features * weights.to(features)).sum().backward()
    return features, {name: p.grad for name, p in tower.named_parameters() if p.requires_grad}


TOWERS = [(image_tower, name) for name in (*FAMILIES, *OPEN_CLIP)] + [(text_tower, name) for name in TEXT_FAMILIES]
# towers whose blocks differ in parts that methods change: norms, biases, gates, scales, rotation, registers, pooling
UNLIKE = ["augreg", "DINOv2, gated", "SigLIP 2's tower, mean", "EVA-02, base"]
if FULL:
    UNLIKE += ["DeiT III", "DINOv3", "PE-Core's tower"]
ALL_METHODS = [(image_tower, name) for name in UNLIKE] + [(text_tower, "OpenAI")] + [(text_tower, "SigLIP")] * FULL
CASES = covering(TOWERS, [*OPTIONS], VARIANTS, together=1)  # 45 and 11: each tower has another method
CASES += [case for case in covering(ALL_METHODS, [*OPTIONS], VARIANTS) if case not in CASES]


@pytest.mark.parametrize(
    ("tower", "method", "variant"), CASES, ids=[f"{b.__name__}-{name}-{m}-{v}" for (b, name), m, v in CASES]
)
def test_each_method_starts_and_trains_in_each_family(tower, method, variant, device):
    build, name = tower
    tower, arguments = build(name)
    tower, arguments = tower.to(device), [argument.to(device) for argument in arguments]
    with torch.no_grad():
        before = tower(*arguments)
    torch.manual_seed(0)
    peft.attach(tower, {method: OPTIONS[method]}, num_classes=10, variant=variant)
    tower.to(device)

    # the first state
    features, found = gradients(tower, arguments)
    assert_near(features, before, 1e-6) if method not in CHANGING else None
    assert found
    for parameter, gradient in found.items():
        assert torch.isfinite(gradient).all(), parameter
        assert bool(gradient.any()) != parameter.endswith(STILL.get(method, ())), parameter

    # after a step, everything trains
    with torch.no_grad():
        for parameter in tower.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape).to(device))
    features, found = gradients(tower, arguments)
    assert (features - before).abs().max() > 1e-3 * before.abs().max()
    for parameter, gradient in found.items():
        assert torch.isfinite(gradient).all(), parameter
        assert gradient.any(), parameter


@pytest.mark.parametrize("name", [*FAMILIES, *OPEN_CLIP])
def test_a_bias_of_the_keys_moves_nothing_unless_they_are_rotated(name):
    """It adds the same to all products of a query; with a rotation, to each according to its position."""
    tower, arguments = image_tower(name)
    peft.attach(tower, {"bitfit": {}}, num_classes=10)
    _, found = gradients(tower, arguments)
    biases = [gradient.view(3, -1).abs().amax(1) for name, gradient in found.items() if name.endswith("qkv.bias")]
    assert len(biases) == len(tower.blocks)
    for q, k, v in biases:
        assert q > 1e-4 * v
        assert (k > 1e-4 * v) == (tower.config.rotation is not None)
        assert k < 1e-5 * v or tower.config.rotation


# ---- prompts ----


def with_prompts(theirs, prompts, num_first):
    """A copy of another library's image tower whose blocks insert these prompts after the first tokens.

    The last block's are dropped before its norms and its pooling.
    """
    model = copy.deepcopy(theirs)
    blocks = model.visual if hasattr(model, "visual") else model
    blocks = getattr(blocks, "trunk", blocks)
    blocks = blocks.blocks if hasattr(blocks, "blocks") else blocks.transformer.resblocks
    length = len(prompts[0])

    def replace(x, prompt, replaced):
        kept = [x[:, :num_first], x[:, num_first + replaced :]]
        return torch.cat([kept[0], prompt.expand(len(x), -1, -1), kept[1]], dim=1)

    for i, (block, prompt) in enumerate(zip(blocks, prompts, strict=True)):
        replaced = length if i else 0
        block.register_forward_pre_hook(
            lambda module, args, prompt=prompt, replaced=replaced: (replace(args[0], prompt, replaced), *args[1:])
        )
        if hasattr(block.attn, "num_prefix_tokens"):  # those that timm does not rotate
            block.attn.num_prefix_tokens += length
    blocks[-1].register_forward_hook(lambda module, args, x: replace(x, x.new_zeros(0, x.shape[2]), length))
    return model


@pytest.mark.parametrize(("name", "variant"), covering([*FAMILIES, *OPEN_CLIP], VARIANTS, together=1))
@torch.no_grad()
def test_prompts_are_those_of_the_other_librarys_module(name, variant):
    """After the class token and the registers, not rotated, and dropped before the pooling."""
    theirs, ours, _ = pair(name)
    tower, (images,) = image_tower(name)
    before = tower(images)
    peft.attach(tower, {"pt": {"len": LENGTH}}, num_classes=10, variant=variant)
    prompts = [block.prompt.tokens.normal_(0, 1) for block in tower.blocks]
    num_first = ours.config.image.class_token + ours.config.image.registers
    model = with_prompts(theirs, prompts, num_first)

    seen = []
    tower.blocks[0].norm1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    features = tower(images)
    expected = model.encode_image(images) if hasattr(model, "visual") else model(images)
    bare = theirs.encode_image(images) if hasattr(theirs, "visual") else theirs(images)
    matrix, bias = ours.image_projection, ours.image_projection_bias
    found = features if matrix is None else features @ matrix
    assert_near(found if bias is None else found + bias, expected)
    assert (expected - bare).abs().max() > 1e-2 * bare.abs().max()
    assert not torch.allclose(features, before)

    tokens = tower.norm_pre(tower.embed(images))
    expected = [tokens[:, :num_first], prompts[0].expand(2, -1, -1), tokens[:, num_first:]]
    assert torch.equal(seen[0], torch.cat(expected, dim=1))
