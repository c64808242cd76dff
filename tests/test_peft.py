"""Fine-tuning methods against their formulas: what they compute, what trains, their sizes, and how they compose."""

import itertools
import math

import pytest
import torch
from helpers import normal_images, randomize

from models import Classifier, count_parameters, peft
from models.backbone import Backbone, ModelError
from models.heads import CosineClassifier
from models.peft import METHODS, automatic_size, select_layers
from models.vit import VisionTransformer
from models.weights import BACKBONES
from utils.runtime import FrozenWeights

FIXED_ORDER = ["fft", "bitfit", "pt", "lora", "adapter", "adaptformer", "ssf", "aft"]

NORMS = {"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"}
LINEARS = {
    f"{linear}.{kind}" for linear in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2") for kind in ("weight", "bias")
}
# what trains in a block, by name
TRAINED = {
    "fft": NORMS | LINEARS,
    "bitfit": {name for name in NORMS | LINEARS if name.endswith("bias")},
    "pt": {"prompt.tokens"},
    "lora": {f"attn.qkv.{part}.{matrix}.weight" for part in "qv" for matrix in ("down", "up")},
    "adaptformer": {
        "side.norm.weight",
        "side.norm.bias",
        "side.down.weight",
        "side.down.bias",
        "side.up.weight",
        "side.up.bias",
        "side.scale",
    },
}
ALL = [*METHODS, "+".join(METHODS)]  # each alone, then all at once


def options(methods, layers=None, size=None):
    """Of peft.attach: the methods on, at these layers, with this size."""
    chosen = {}
    for name in methods:
        chosen |= {name: True, f"{name}_layers": layers}
        if METHODS[name].size_key:
            chosen[METHODS[name].size_key] = size
    return chosen


def tiny_tower(seed=0, dim=128, depth=3, clip=True, methods=(), layers=None, size=2):
    """An image tower of four patches with methods attached, every parameter random."""
    tower = VisionTransformer(dim, depth, patch=2, resolution=4, clip=clip)
    peft.attach(tower, options(methods, layers, size), num_classes=10)
    return randomize(tower, seed)


# ---- the formulas: a tower over one image, token by token, in whatever precision its tensors have ----


def layer_norm(row, weight, bias, eps):
    return (row - row.mean()) / (row.var(correction=0) + eps).sqrt() * weight + bias


def no_prompt(tokens, block):
    return tokens


def no_update(row, block):
    return 0


def prompt_formula(tokens, block):
    """[x_0, p_1, ..., p_p, x_1, ...]; earlier prompt tokens go."""
    kept = [(kind, row) for kind, row in tokens if kind != "prompt"]
    return kept[:1] + [("prompt", row) for row in block["prompt.tokens"]] + kept[1:]


def lora_formula(row, block):
    """[(1/r) (x A_q) B_q, 0, (1/r) (x A_v) B_v]"""

    def update(part):
        a, b = block[f"attn.qkv.{part}.down.weight"].T, block[f"attn.qkv.{part}.up.weight"].T
        return row @ a @ b / a.shape[1]

    return torch.cat([update("q"), torch.zeros_like(row), update("v")])


def adaptformer_formula(row, block):
    """s Up(ReLU(Down(LN(x))))"""
    h = layer_norm(row, block["side.norm.weight"], block["side.norm.bias"], 1e-5)
    h = block["side.down.weight"] @ h + block["side.down.bias"]
    h = torch.where(h > 0, h, 0 * h)
    return block["side.scale"] * (block["side.up.weight"] @ h + block["side.up.bias"])


FORMULAS = {
    "fft": {},
    "bitfit": {},
    "pt": {"prompt": prompt_formula},
    "lora": {"qkv_update": lora_formula},
    "adaptformer": {"side": adaptformer_formula},
}


def block_formula(tokens, block, heads, clip, prompt=no_prompt, qkv_update=no_update, side=no_update):
    """One block over tokens [(kind, row)]; block: its parameters by name; the rest: what methods put there."""
    eps = 1e-5 if clip else 1e-6
    wrapped = ".wrapped" if "attn.qkv.wrapped.weight" in block else ""
    tokens = prompt(tokens, block)
    kinds, x = zip(*tokens, strict=True)
    normed = [layer_norm(row, block["norm1.weight"], block["norm1.bias"], eps) for row in x]
    weight, bias = block[f"attn.qkv{wrapped}.weight"], block[f"attn.qkv{wrapped}.bias"]
    qkv = torch.stack([weight @ row + bias + qkv_update(row, block) for row in normed])
    q, k, v = (part.unflatten(1, (heads, -1)) for part in qkv.chunk(3, dim=1))
    out = []
    for i, row in enumerate(x):
        mixed = []
        for h in range(heads):
            attention = (k[:, h] @ q[i, h] / q.shape[2] ** 0.5).softmax(0)
            mixed.append(attention @ v[:, h])
        row = row + block["attn.proj.weight"] @ torch.cat(mixed) + block["attn.proj.bias"]
        hidden = layer_norm(row, block["norm2.weight"], block["norm2.bias"], eps)
        hidden = block["mlp.fc1.weight"] @ hidden + block["mlp.fc1.bias"]
        hidden = hidden * (1.702 * hidden).sigmoid() if clip else hidden * (1 + (hidden / 2**0.5).erf()) / 2
        out.append(row + block["mlp.fc2.weight"] @ hidden + block["mlp.fc2.bias"] + side(row, block))
    return list(zip(kinds, out, strict=True))


def tower_formula(image, p, depth, patch, clip, methods, layers):
    """The feature of one image [3, R, R]; p: the tower's parameters by name."""
    dim = len(p["class_token"])
    rows = range(0, image.shape[1], patch)
    patches = [image[:, top : top + patch, left : left + patch].flatten() for top in rows for left in rows]
    bias = 0 if clip else p["patch_embed.bias"]
    x = [p["class_token"], *(p["patch_embed.weight"].flatten(1) @ pixels + bias for pixels in patches)]
    x = [row + position for row, position in zip(x, p["positional_embedding"], strict=True)]
    if clip:
        x = [layer_norm(row, p["norm_pre.weight"], p["norm_pre.bias"], 1e-5) for row in x]
    tokens = [("class", x[0]), *(("patch", row) for row in x[1:])]
    for i in range(depth):
        prefix = f"blocks.{i}."
        block = {name.removeprefix(prefix): value for name, value in p.items() if name.startswith(prefix)}
        extras = {slot: f for name in methods if i in layers for slot, f in FORMULAS[name].items()}
        tokens = block_formula(tokens, block, max(dim // 64, 1), clip, **extras)
    return layer_norm(tokens[0][1], p["norm.weight"], p["norm.bias"], 1e-5 if clip else 1e-6)


@pytest.mark.parametrize("case", range(20))
@pytest.mark.parametrize("names", ALL)
def test_tower_is_its_formula_in_value_and_gradient(names, case):
    """Random sizes, layers and weights; in float64 the two agree to rounding, as do all gradients of what trains."""
    methods, clip = names.split("+"), case % 2 == 0
    generator = torch.Generator().manual_seed(case)

    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    dim, depth, side = (6, 10, 128)[draw(0, 2)], draw(1, 4), draw(1, 3)
    layers = sorted({draw(0, depth - 1) for _ in range(draw(1, depth))})
    tower = VisionTransformer(dim, depth, 2, 2 * side, clip)
    peft.attach(tower, options(methods, layers, size=draw(3, 7)), num_classes=10)
    tower = randomize(tower, seed=case).double()
    images = normal_images(2, 2 * side, seed=case).double()
    direction = torch.randn(2, dim, generator=generator, dtype=torch.float64)

    features = tower(images)
    trained = {name: parameter for name, parameter in tower.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad((features * direction).sum(), list(trained.values()))

    tensors = {name: value.detach().clone().requires_grad_(name in trained) for name, value in tower.named_parameters()}
    expected = torch.stack([tower_formula(image, tensors, depth, 2, clip, methods, layers) for image in images])
    wanted = torch.autograd.grad((expected * direction).sum(), [tensors[name] for name in trained])

    assert torch.allclose(features, expected, rtol=1e-10, atol=1e-10)
    for name, found, right in zip(trained, gradients, wanted, strict=True):
        assert torch.allclose(found, right, rtol=1e-8, atol=1e-10), name
    assert any(right.any() for right in wanted)


# ---- first state ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["lora", "adaptformer"])
@torch.no_grad()
def test_fresh_method_leaves_the_output_bit_identical(method, dtype):
    tower = tiny_tower()
    images = normal_images(2, 4)
    tower.to(dtype)
    before = tower(images)
    peft.attach(tower, options([method], size=4), num_classes=10)
    assert any(parameter.requires_grad for parameter in tower.parameters())
    assert torch.equal(tower(images), before)


def assert_uniform(weight, bound):
    """Uniform in [-bound, bound], going by its extremes and its deviation."""
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert abs(weight.mean()) < 0.05 * bound


def test_first_values():
    """A and Down kaiming-uniform with a = sqrt 5, so uniform to 1 / sqrt(inputs); the rest as the paper has it."""
    torch.manual_seed(0)
    blocks = VisionTransformer(128, 1, 2, 4, clip=True).blocks
    for name in ("pt", "lora", "adaptformer"):
        METHODS[name].attach(blocks, 64)
    block = blocks[0]
    prompt = block.prompt.tokens
    assert prompt.shape == (64, 128)
    assert prompt.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(prompt.mean()) < 0.001
    assert prompt.abs().max() > 0.05  # normal, not uniform
    for part in (block.attn.qkv.q, block.attn.qkv.v):
        assert_uniform(part.down.weight, 128**-0.5)
        assert not part.up.weight.any()
    assert not torch.equal(block.attn.qkv.q.down.weight, block.attn.qkv.v.down.weight)
    assert_uniform(block.side.down.weight, 128**-0.5)
    assert block.side.scale == 1
    assert (block.side.norm.weight == 1).all()
    for zero in (block.side.norm.bias, block.side.down.bias, block.side.up.weight, block.side.up.bias):
        assert not zero.any()


# ---- what trains ----


@pytest.mark.parametrize("names", ALL)
def test_exactly_the_intended_tensors_train(names):
    tower = tiny_tower(methods=names.split("+"), layers=[0, 2])
    trained = {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
    parts = set().union(*(TRAINED[name] for name in names.split("+")))
    wrapped = {part.replace("attn.qkv.", "attn.qkv.wrapped.") for part in ("attn.qkv.weight", "attn.qkv.bias")}
    if "lora" in names and "fft" in names:  # lora stands around the Linear that fft trains
        parts = parts - {"attn.qkv.weight", "attn.qkv.bias"} | wrapped
    assert trained == {f"blocks.{i}.{part}" for i in (0, 2) for part in parts}


@pytest.mark.parametrize("names", ALL)
def test_steps_move_all_that_trains_and_nothing_else(names):
    tower = tiny_tower(methods=names.split("+"), layers=[0, 2])
    before = {name: parameter.detach().clone() for name, parameter in tower.named_parameters()}
    trained = {name: parameter for name, parameter in tower.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for step in range(3):
        tower(normal_images(4, 4, seed=step)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in tower.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in trained), name
        assert parameter.grad is None


def test_attach_freezes_what_was_not():
    tower = VisionTransformer(6, 2, 2, 4, clip=False)
    assert all(parameter.requires_grad for parameter in tower.parameters())
    peft.attach(tower, {}, num_classes=10)
    assert not any(parameter.requires_grad for parameter in tower.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("names", ALL)
def test_frozen_in_half_precision_trained_in_float32(names, dtype):
    """The features come in half precision, close to float32's; gradients arrive in float32, close to float32's."""
    tower = tiny_tower(methods=names.split("+"), layers=[0, 2])
    images = normal_images(4, 4)
    trained = {name: parameter for name, parameter in tower.named_parameters() if parameter.requires_grad}
    direction = normal_images(4, 128, seed=1)[:, 0, 0]
    exact = tower(images)
    exact_gradients = torch.autograd.grad((exact * direction).sum(), list(trained.values()))
    FrozenWeights(tower).cast(dtype)
    features = tower(images)
    (features.float() * direction).sum().backward()
    assert features.dtype == dtype
    assert ((features.float() - exact).norm() / exact.norm()) < 0.05
    for name, parameter in tower.named_parameters():
        assert parameter.dtype == (torch.float32 if name in trained else dtype), name
        assert (parameter.grad is not None) == (name in trained), name
    for (name, parameter), gradient in zip(trained.items(), exact_gradients, strict=True):
        assert parameter.grad.dtype == torch.float32, name
        assert (parameter.grad - gradient).norm() < 0.1 * gradient.norm(), name


# ---- layers and sizes ----


@pytest.mark.parametrize(
    "layers, expected",
    [
        (None, [0, 1, 2, 3, 4]),
        (0, []),
        (1, [4]),
        (3, [2, 3, 4]),
        (5, [0, 1, 2, 3, 4]),
        ([], []),
        ((0, 2), [0, 2]),
        ([4, 0], [0, 4]),
        ([3, 3], [3]),
    ],
)
def test_layers(layers, expected):
    """None = all, k = the last k, 0 = none, a list = those."""
    assert select_layers(5, layers) == expected


@pytest.mark.parametrize("layers", [6, -1, [5], [0, 7], [-1]])
def test_layers_out_of_range_are_an_error_that_names_them(layers):
    with pytest.raises(ModelError, match="lora_layers .*5 blocks") as error:
        select_layers(5, layers, "lora")
    assert str(layers) in str(error.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layers, blocks", [(None, {0, 1, 2}), (0, set()), (1, {2}), ((0, 2), {0, 2})])
def test_method_stands_in_its_layers_only(method, layers, blocks):
    tower = tiny_tower(methods=[method], layers=layers)
    trained = {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
    assert {int(name.split(".")[1]) for name in trained} == blocks


@pytest.mark.parametrize("method", METHODS)
def test_no_layers_and_no_size_leave_the_tower_bare(method):
    tower = tiny_tower()
    names = [name for name, _ in tower.named_parameters()]
    peft.attach(tower, options([method], layers=0), num_classes=10)
    assert [name for name, _ in tower.named_parameters()] == names


SHARES = {"pt": 1, "lora": 4, "adaptformer": 2}  # of p = 2^floor(log2(C / (share * layers)))


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.size_key])
def test_automatic_size_is_its_formula(method):
    assert METHODS[method].share == SHARES[method]
    for layers, classes in itertools.product((1, 2, 3, 5, 6, 12, 24), range(2, 9001)):
        exponent = math.floor(math.log2(classes / (SHARES[method] * layers)))
        assert automatic_size(classes, layers, METHODS[method].share) == 2 ** max(exponent, 0), (classes, layers)


@pytest.mark.parametrize(
    "method, layers, classes, shape",
    [
        ("pt", None, 100, (32, 128)),  # 100 / 3
        ("pt", 1, 2, (2, 128)),
        ("lora", None, 100, (8, 128)),  # 100 / 12
        ("lora", (0,), 8142, (1024, 128)),  # 8142 / 4 = 2035
        ("adaptformer", None, 100, (16, 128)),  # 100 / 6
        ("adaptformer", None, 2, (1, 128)),
    ],
)
def test_attach_takes_the_automatic_size(method, layers, classes, shape):
    tower = VisionTransformer(128, 3, 2, 4, clip=True)
    peft.attach(tower, options([method], layers), classes)
    block = tower.blocks[0 if layers == (0,) else 2]
    module = {"pt": block.prompt, "lora": getattr(block.attn.qkv, "q", None), "adaptformer": block.side}[method]
    assert (module.tokens if method == "pt" else module.down.weight).shape == shape


@pytest.mark.parametrize("classes, count", [(100, 101_436), (365, 175_212), (1000, 617_868), (8142, 4_749_324)])
def test_adaptformer_on_vit_b16_has_the_published_number_of_parameters(classes, count):
    with torch.device("meta"):
        tower = Backbone(BACKBONES["clip_vit_b16"].geometry).image
        frozen = sum(parameter.numel() for parameter in tower.parameters())
        peft.attach(tower, options(["adaptformer"]), classes)
        model = Classifier(tower, CosineClassifier(classes, 768, scale=25.0), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert frozen == 85_799_424  # torchvision's vit_b_16 has 85,798,656 without its head; CLIP's: no patch bias, ln_pre
    head = classes * 768
    wanted = {"total": frozen + count + head, "trained": count + head, "peft": count, "head": head}
    assert count_parameters(model) == wanted


# ---- composition ----


def test_methods_attach_in_the_fixed_order():
    assert list(METHODS) == [name for name in FIXED_ORDER if name in METHODS]
    assert set(METHODS) <= set(FIXED_ORDER)


def test_order_of_the_options_changes_nothing():
    """The same tensors, in the same order, with the same random values."""
    towers = []
    for methods in (METHODS, reversed(METHODS)):
        torch.manual_seed(0)
        tower = VisionTransformer(6, 2, 2, 4, clip=True)
        peft.attach(tower, options(methods, size=2), num_classes=10)
        towers.append(tower)
    first, second = (list(tower.named_parameters()) for tower in towers)
    assert [name for name, _ in first] == [name for name, _ in second]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, second, strict=True))


def test_earlier_prompt_is_dropped_only_where_there_is_a_new_one():
    """Blocks 0 and 2 of 4 have 3 prompt tokens beside 1 + 4: never 6, and block 1 and 3 keep those before them."""
    tower = tiny_tower(depth=5, methods=["pt"], layers=[1, 3], size=3)
    tokens = []
    for block in tower.blocks:
        block.attn.register_forward_hook(lambda module, args, output: tokens.append(args[0].shape[1]))
    tower(normal_images(1, 4))
    assert tokens == [5, 8, 8, 8, 8]
