"""Fine-tuning methods against their formulas: outputs, trainable parameters, sizes, and composition."""

import dataclasses
import itertools
import math
from decimal import Decimal
from fractions import Fraction

import pytest
import torch
from cases import covering, numbered
from helpers import execute, normal_images, randomize, refused, resnet, vit
from oracles import bottleneck_formula, image_formula, text_formula

from models import Model, count_parameters, peft
from models.backbones import BACKBONES
from models.backbones.backbone import Backbone
from models.backbones.text import TextConfig, TextTransformer
from models.backbones.transformer import Block
from models.heads.classifiers import CosineClassifier
from models.peft import METHODS, select_layers
from models.peft.aft import PartlyTrainedLinear, default_ratio, default_ratio_lift
from models.peft.method import default_size
from models.precision import FrozenWeights
from trainer import Trainer
from utils.errors import CheckpointError, ModelError

FIXED_ORDER = ["fft", "bitfit", "ln_tuning", "pt", "lora", "lora_mlp", "adapter", "adaptformer", "ssf", "ssf_ln", "aft"]
OF_RESNETS = ["fft", "bitfit", "ssf", "bn_tuning"]

NORMS = {"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"}
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
LINEARS = {f"{linear}.{kind}" for linear in LAYERS for kind in ("weight", "bias")}
BOTTLENECK = {f"{layer}.{kind}" for layer in ("norm", "down", "up") for kind in ("weight", "bias")}
# trainable parameters of a block, by name
TRAINED = {
    "fft": NORMS | LINEARS,
    "bitfit": {name for name in NORMS | LINEARS if name.endswith("bias")},
    "ln_tuning": NORMS,
    "pt": {"prompt.tokens"},
    "lora": {f"attn.qkv.{part}.{matrix}.weight" for part in "qv" for matrix in ("down", "up")},
    "lora_mlp": {f"mlp.{layer}.lora.{matrix}.weight" for layer in ("fc1", "fc2") for matrix in ("down", "up")},
    "adapter": {f"mlp.adapter.{name}" for name in BOTTLENECK},
    "adaptformer": {f"side.{name}" for name in BOTTLENECK} | {"side.scale"},
    "ssf": {f"{linear}.{kind}" for linear in LAYERS for kind in ("scale", "shift")},
    "ssf_ln": {f"norm{number}.{kind}" for number in (1, 2) for kind in ("scale", "shift")},
    "aft": {f"{name}.values" for name in LINEARS},
}
ALL = [*FIXED_ORDER, "+".join(FIXED_ORDER)]  # each alone, then all at once
IDENTITY = ["lora", "lora_mlp", "adapter", "adaptformer", "aft"]  # methods that are the identity when initialised


def options(methods, layers=None, size=None, where="all"):
    """The methods for peft.attach, at these layers, with this size, in these Linears."""
    values = {"layers": layers, "len": size, "dim": size, "ratio": size and size / 10, "loc": where, "seed": 0}
    return {
        name: {f.name: values[f.name] for f in dataclasses.fields(METHODS[name].Options) if f.name in values}
        for name in methods
    }


def plain(name):
    """The name of a parameter without the wrappers of its layer."""
    return name.replace(".wrapped", "")


def tiny_tower(seed=0, dim=128, depth=3, clip=True, methods=(), layers=None, size=2, variant="lift+"):
    """An image tower of four patches with methods attached, every parameter random."""
    tower = vit(dim, depth, 2, 4, clip)
    peft.attach(tower, options(methods, layers, size), num_classes=10, variant=variant)
    return randomize(tower, seed)


# ---- the formulas: the changes of each method in a block of oracles.block_formula ----


def prompt_formula(tokens, block):
    """[x_0, p_1, ..., p_p, x_1, ...]; earlier prompt tokens are dropped."""
    kept = [(kind, row) for kind, row in tokens if kind != "prompt"]
    return kept[:1] + [("prompt", row) for row in block["prompt.tokens"]] + kept[1:]


def lora_formula(row, y, block, name):
    """y + [(1/r) (x A_q) B_q, 0, (1/r) (x A_v) B_v] for y = qkv"""
    if name != "attn.qkv":
        return y

    def update(part):
        a, b = block[f"attn.qkv.{part}.down.weight"].T, block[f"attn.qkv.{part}.up.weight"].T
        return row @ a @ b / a.shape[1]

    return y + torch.cat([update("q"), torch.zeros_like(row), update("v")])


def lora_mlp_formula(row, y, block, name):
    """y + (1/r) (x A) B for x -> y = fc1 or fc2"""
    if not name.startswith("mlp."):
        return y
    a, b = block[f"{name}.lora.down.weight"].T, block[f"{name}.lora.up.weight"].T
    return y + row @ a @ b / a.shape[1]


def ssf_formula(row, y, block, name):
    """y * scale + shift"""
    return y * block[f"{name}.scale"] + block[f"{name}.shift"]


def ssf_ln_formula(y, block, name):
    """y * scale + shift of y = LN1 or LN2"""
    return y * block[f"{name}.scale"] + block[f"{name}.shift"]


def aft_formula(tensor, block, name):
    """The tensor, with the learnt values at their positions."""
    places, values = block[f"{name}.index"], block[f"{name}.values"]
    kept = torch.ones(tensor.numel(), dtype=tensor.dtype)
    kept[places] = 0
    learnt = torch.zeros(tensor.numel(), dtype=tensor.dtype).index_put((places,), values)
    return tensor * kept.view_as(tensor) + learnt.view_as(tensor)


# the slots of a method
FORMULAS = {
    "fft": {},
    "bitfit": {},
    "ln_tuning": {},
    "pt": {"prompt": prompt_formula},
    "lora": {"after_linear": lora_formula},
    "lora_mlp": {"after_linear": lora_mlp_formula},
    "adapter": {"after_mlp": lambda h, block: h + bottleneck_formula(h, block, "mlp.adapter")},
    "adaptformer": {"side": lambda x, block: block["side.scale"] * bottleneck_formula(x, block, "side")},
    "ssf": {"after_linear": ssf_formula},
    "ssf_ln": {"after_norm": ssf_ln_formula},
    "aft": {"of_tensor": aft_formula},
}


def extras(methods):
    """The contents of each slot of a block with these methods, in their fixed order."""
    slots = {slot for m in methods for slot in FORMULAS[m]}
    return {slot: [FORMULAS[m][slot] for m in FIXED_ORDER if m in methods and slot in FORMULAS[m]] for slot in slots}


def assert_is_formula(tower, inputs, formula, device=torch.device("cpu")):  # noqa: B008 (never changed)
    """Compares `tower` of inputs, and its gradients, with `formula(one input, tensors by plain name)`.

    The tower computes on `device`, the formula on the CPU.
    """
    features = tower.to(device)(inputs.to(device))
    direction = torch.randn(features.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    trained = {plain(name): parameter for name, parameter in tower.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad((features * direction.to(device)).sum(), list(trained.values()))

    features, gradients = features.cpu(), [gradient.cpu() for gradient in gradients]
    tensors = {plain(name): buffer.cpu() for name, buffer in tower.named_buffers()}
    for name, value in tower.named_parameters():
        tensors[plain(name)] = value.detach().cpu().clone().requires_grad_(plain(name) in trained)
    expected = torch.stack([formula(one, tensors) for one in inputs])
    wanted = torch.autograd.grad((expected * direction).sum(), [tensors[name] for name in trained], allow_unused=True)

    assert torch.allclose(features, expected, rtol=1e-10, atol=1e-10)
    for name, found, right in zip(trained, gradients, wanted, strict=True):
        assert torch.allclose(found, 0 * found if right is None else right, rtol=1e-8, atol=1e-10), name
    assert any(right is not None and right.any() for right in wanted)


def random_case(case):
    """A function that draws integers, and a random position of the methods with loc."""
    generator = torch.Generator().manual_seed(case)

    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    depth = draw(1, 4)
    layers = sorted({draw(0, depth - 1) for _ in range(draw(1, depth))})
    return draw, depth, layers


@pytest.mark.parametrize("case", numbered(12, sample=3))
@pytest.mark.parametrize("names", ALL)
def test_image_tower_is_its_formula_in_value_and_gradient(names, case, device):
    """Random sizes, layers and weights; in float64 the two agree to rounding, and so do all gradients.

    For both variants: they differ in initial values and in the entries of aft, but compute the same.
    """
    methods, clip, variant = names.split("+"), case % 2 == 0, ("lift+", "lift")[case % 4 // 2]
    draw, depth, layers = random_case(case)
    dim, side = (6, 10, 128)[draw(0, 2)], draw(1, 3)
    tower = vit(dim, depth, 2, 2 * side, clip)
    peft.attach(tower, options(methods, layers, size=draw(3, 7)), num_classes=10, variant=variant)
    tower = randomize(tower, seed=case).double()
    images = normal_images(2, 2 * side, seed=case).double()

    def formula(image, p):
        return image_formula(image, p, depth, 2, clip, extras(methods), layers)

    assert_is_formula(tower, images, formula, device)


@pytest.mark.parametrize("case", numbered(12, sample=3))
@pytest.mark.parametrize("names", ALL)
def test_text_tower_is_its_formula_in_value_and_gradient(names, case, device):
    """As of the image tower; the texts have different lengths, and prompt tokens move their ends."""
    methods, variant = names.split("+"), ("lift+", "lift")[case % 2]
    draw, depth, layers = random_case(case)
    tower = TextTransformer(TextConfig((6, 10, 128)[draw(0, 2)], depth, context=8))
    tower.token_embedding = torch.nn.Embedding(12, tower.dim)
    peft.attach(tower, options(methods, layers, size=draw(3, 7)), num_classes=10, variant=variant)
    tower = randomize(tower, seed=case).double()
    tokens = torch.zeros(3, 8, dtype=torch.int64)
    for row in tokens:
        length = draw(2, 7)
        row[:length] = torch.tensor([10, *(draw(1, 9) for _ in range(length - 2)), 11])
    assert_is_formula(tower, tokens, lambda ids, p: text_formula(ids, p, depth, extras(methods), layers), device)


# ---- first state ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", IDENTITY)
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
    """Uniform in [-bound, bound], judged by its extremes and its deviation."""
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert abs(weight.mean()) < 0.05 * bound


def test_first_values():
    """A uniform to 1 / sqrt(rank), Down to 1 / sqrt(width of the tower); the rest as the paper has it."""
    block = fresh_block("lift+")
    prompt = block.prompt.tokens
    assert prompt.shape == (64, 128)
    assert prompt.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(prompt.mean()) < 0.001
    assert prompt.abs().max() > 0.05  # normal, not uniform
    assert_lora_starts(block)
    assert block.side.scale == 1
    for bottleneck in (block.side, block.mlp.adapter):
        assert_uniform(bottleneck.down.weight, 128**-0.5)
        assert (bottleneck.norm.weight == 1).all()
        for zero in (bottleneck.norm.bias, bottleneck.down.bias, bottleneck.up.weight, bottleneck.up.bias):
            assert not zero.any()
    assert_ssf_starts(block)


def fresh_block(variant):
    """A block, 64 wide methods in it, of a tower 128 wide with patches of 14 pixels."""
    torch.manual_seed(0)
    tower = vit(128, 1, 14, 28, True)
    methods = ("pt", "lora", "lora_mlp", "adapter", "adaptformer", "ssf", "ssf_ln")
    peft.attach(tower, options(methods, size=64), num_classes=10, variant=variant)
    return tower.blocks[0]


def assert_lora_starts(block):
    """A [d, 64] uniform to 1 / sqrt(64), whatever d; B zero."""
    qkv, fc1, fc2 = (layer.wrapped for layer in (block.attn.qkv, block.mlp.wrapped.fc1, block.mlp.wrapped.fc2))
    parts = (qkv.q, qkv.v, fc1.lora, fc2.lora)
    for part in parts:
        assert_uniform(part.down.weight, 1 / 8)
        assert not part.up.weight.any()
    assert [tuple(part.down.weight.T.shape) for part in parts] == [(128, 64)] * 3 + [(512, 64)]
    assert len({part.down.weight[0, 0].item() for part in parts}) == 4


def assert_ssf_starts(block):
    """N(1, .02) and N(0, .02), on the Linears and on the norms."""
    for layer, width in ((block.mlp.wrapped.fc1, 512), (block.norm1, 128), (block.norm2, 128)):
        for values, mean in ((layer.scale, 1), (layer.shift, 0)):
            assert values.shape == (width,)
            assert values.mean().item() == pytest.approx(mean, abs=0.006)
            assert values.std().item() == pytest.approx(0.02, rel=0.15)
            assert (values - mean).abs().max() > 0.04


def assert_normal(weight, deviation):
    """Normal around zero, judged by its deviation and its tails."""
    assert weight.std().item() == pytest.approx(deviation, rel=0.05)
    assert weight.abs().max() > 3 * deviation
    assert abs(weight.mean()) < 0.05 * deviation
    assert (weight.abs() < deviation).double().mean().item() == pytest.approx(0.683, abs=0.02)


def test_first_values_of_lift():
    """Prompts uniform by the size of a patch, Down normal with deviation 1 / sqrt(3 d), the rest as LIFT+'s."""
    block = fresh_block("lift")
    assert_uniform(block.prompt.tokens, (6 / (3 * 14 * 14 + 128)) ** 0.5)
    assert_lora_starts(block)
    assert block.side.scale == 1
    for bottleneck in (block.side, block.mlp.adapter):
        assert_normal(bottleneck.down.weight, (3 * 128) ** -0.5)
        assert (bottleneck.norm.weight == 1).all()
        for zero in (bottleneck.norm.bias, bottleneck.down.bias, bottleneck.up.weight, bottleneck.up.bias):
            assert not zero.any()
    assert_ssf_starts(block)


def test_prompts_of_a_text_tower_start_alike_in_both_variants():
    """It has no patches."""
    for variant in ("lift+", "lift"):
        torch.manual_seed(0)
        tower = TextTransformer(TextConfig(64, 1, context=8))
        peft.attach(tower, options(["pt"], size=200), num_classes=10, variant=variant)
        assert_normal(tower.blocks[0].prompt.tokens, 0.02)


# ---- trainable parameters ----


@pytest.mark.parametrize("names", ALL)
def test_exactly_the_intended_tensors_train(names):
    tower = tiny_tower(methods=names.split("+"), layers=[0, 2])
    trained = [plain(name) for name, parameter in tower.named_parameters() if parameter.requires_grad]
    parts = set().union(*(TRAINED[name] for name in names.split("+")))
    assert len(trained) == len(set(trained))
    assert set(trained) == {f"blocks.{i}.{part}" for i in (0, 2) for part in parts}


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
    tower = vit(6, 2, 2, 4, False)
    assert all(parameter.requires_grad for parameter in tower.parameters())
    peft.attach(tower, {}, num_classes=10)
    assert not any(parameter.requires_grad for parameter in tower.parameters())


@pytest.mark.parametrize(("names", "dtype"), covering(ALL, [torch.bfloat16, torch.float16], together=1))
def test_frozen_in_half_precision_trained_in_float32(names, dtype, device):
    """The features come in half precision, close to float32's; gradients arrive in float32, close to float32's."""
    tower = tiny_tower(seed=1, methods=names.split("+"), layers=[0, 2]).to(device)
    images = normal_images(4, 4).to(device)
    trained = {name: parameter for name, parameter in tower.named_parameters() if parameter.requires_grad}
    direction = normal_images(4, 128, seed=1)[:, 0, 0].to(device)
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
def test_layers_out_of_range_are_refused(layers):
    with refused(ModelError, kind="layers_out_of_range", key="lora_layers"):
        select_layers(5, layers, "lora")


@pytest.mark.parametrize("method", FIXED_ORDER)
@pytest.mark.parametrize("layers, blocks", [(None, {0, 1, 2}), (0, set()), (1, {2}), ((0, 2), {0, 2})])
def test_method_stands_in_its_layers_only(method, layers, blocks):
    tower = tiny_tower(methods=[method], layers=layers)
    trained = {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
    assert {int(name.split(".")[1]) for name in trained} == blocks


@pytest.mark.parametrize("method", FIXED_ORDER)
def test_no_layers_and_no_size_leave_the_tower_bare(method):
    tower = tiny_tower()
    names = [name for name, _ in tower.named_parameters()]
    peft.attach(tower, options([method], layers=0), num_classes=10)
    assert [name for name, _ in tower.named_parameters()] == names


SHARES = {"pt": 1, "lora": 4, "lora_mlp": 4, "adapter": 2, "adaptformer": 2}  # of 2^floor(log2(C / (share * layers)))
SIZES = {"attn": lambda d: 4 * d + 4, "mlp": lambda d: 8 * d + 5, "all": lambda d: 12 * d + 9}


@pytest.mark.parametrize("share", sorted(set(SHARES.values())))
def test_default_size_is_its_formula(share):
    for layers, classes in itertools.product((1, 2, 3, 5, 6, 12, 24), range(2, 9001)):
        exponent = math.floor(math.log2(classes / (share * layers)))
        assert default_size(classes, layers, share) == 2 ** max(exponent, 0), (classes, layers)


BLOCK = Block(768, 12, torch.nn.GELU())


def test_default_ratio_is_its_formula():
    for layers, classes in itertools.product((1, 2, 3, 5, 6, 12, 24), range(2, 9001, 50)):
        for where, size in SIZES.items():
            expected = min(classes / (layers * size(768)), 1)
            assert default_ratio(classes, layers, BLOCK, where) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "method, layers, classes, shape",
    [
        ("pt", None, 100, (32, 128)),  # 100 / 3
        ("pt", 1, 2, (2, 128)),
        ("lora", None, 100, (8, 128)),  # 100 / 12
        ("lora", (0,), 8142, (1024, 128)),  # 8142 / 4 = 2035
        ("lora_mlp", (0, 2), 100, (8, 128)),  # 100 / 8
        ("adapter", None, 100, (16, 128)),  # 100 / 6
        ("adaptformer", None, 100, (16, 128)),
        ("adaptformer", None, 2, (1, 128)),
    ],
)
def test_attach_takes_the_default_size(method, layers, classes, shape):
    tower = vit(128, 3, 2, 4, True)
    peft.attach(tower, options([method], layers), classes)
    shapes = {plain(name): tuple(p.shape) for name, p in tower.named_parameters() if p.requires_grad}
    shapes = {name: shape for name, shape in shapes.items() if not name.endswith("fc2.lora.down.weight")}  # 4 d wide
    assert {value for name, value in shapes.items() if name.endswith(("tokens", "down.weight"))} == {shape}


@pytest.mark.parametrize("layers", [None, 1, (0, 2)])
@pytest.mark.parametrize("classes", [2, 10, 100, 365, 1000, 8142])
def test_default_sizes_of_lift_count_all_blocks_of_the_tower(classes, layers):
    """2^max(0, trunc(log2(C / 2L))) of every bottleneck and rank, ten prompt tokens, and a ratio in thousandths."""
    tower = vit(64, 3, 2, 4, True)
    methods = ["pt", "lora", "lora_mlp", "adapter", "adaptformer"]
    peft.attach(tower, options(methods, layers), classes, variant="lift")
    block = tower.blocks[2]
    size = 2 ** max(0, math.trunc(math.log2(classes / (2 * 3))))
    downs = block.attn.qkv.q, block.attn.qkv.v, block.mlp.wrapped.fc1.lora, block.mlp.adapter, block.side
    assert {len(module.down.weight) for module in downs} == {size}
    assert len(block.prompt.tokens) == 10


@pytest.mark.parametrize("depth, dim", [(1, 64), (3, 128), (12, 768), (24, 1024)])
def test_default_ratio_of_lift(depth, dim):
    """max(.001, C / (12 L d) cut down to a multiple of .001), in exact decimals; at most everything."""
    block = Block(dim, 1, torch.nn.GELU())
    for classes in [*range(2, 300), 365, 1000, 8142]:
        cut = Fraction(classes, 12 * depth * dim) // Fraction(1, 1000)
        expected = float(Decimal(min(max(cut, 1), 1000)) / 1000)
        assert default_ratio_lift(classes, depth, block) == expected, classes


def test_lift_cuts_the_ratio_where_a_float_would_round_up():
    """1000 C / (12 L d) of these is a whole number; CIFAR-100, Places-LT, ImageNet-LT, iNaturalist on ViT-B/16."""
    assert [default_ratio_lift(classes, 5, Block(125, 1, torch.nn.GELU())) for classes in (15, 30, 435)] == [
        0.002,
        0.004,
        0.058,
    ]
    found = [default_ratio_lift(classes, 12, BLOCK) for classes in (100, 365, 1000, 8142)]
    assert found == [0.001, 0.003, 0.009, 0.073]


# ---- arbitrary fine-tuning ----


def entries_of(tower):
    return {name: module for name, module in tower.named_modules() if isinstance(module, PartlyTrainedLinear)}


@pytest.mark.parametrize("where, size", [(where, SIZES[where](128)) for where in SIZES])
def test_aft_trains_as_many_entries_as_a_head_has_weights(where, size):
    """C d in all, except that each tensor's share is rounded down."""
    tower = vit(128, 3, 2, 4, True)
    peft.attach(tower, options(["aft"], where=where), num_classes=100)
    trained = sum(p.numel() for p in tower.parameters() if p.requires_grad)
    assert 100 * 128 - 24 <= trained <= 100 * 128
    layers = {"attn": LAYERS[:2], "mlp": LAYERS[2:], "all": LAYERS}[where]
    assert set(entries_of(tower)) == {f"blocks.{i}.{layer}" for i in range(3) for layer in layers}
    for linear in entries_of(tower).values():
        ratio = 100 / (3 * size)
        for kind in ("weight", "bias"):
            entries, tensor = getattr(linear, kind), getattr(linear.wrapped, kind)
            assert len(entries.values) == int(ratio * tensor.numel())
            assert len(set(entries.index.tolist())) == len(entries.values)
            assert torch.equal(entries.values, tensor.flatten()[entries.index])


def test_aft_chooses_by_its_seed_alone_and_evenly():
    def chosen(seed, torch_seed):
        torch.manual_seed(torch_seed)
        tower = vit(128, 2, 2, 4, True)
        peft.attach(tower, {"aft": {"ratio": 0.2, "seed": seed}}, num_classes=10)
        return [linear.weight.index for linear in entries_of(tower).values()]

    one, same, other = chosen(0, 0), chosen(0, 1), chosen(1, 0)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(one[0], one[4])  # the same layer of the next block: a fresh generator for every tensor
    rows = torch.bincount(one[0] // 128, minlength=384).double()  # 25.6 of 128 in each row, on average
    assert rows.mean() == pytest.approx(25.6, rel=0.01)
    assert 3 < rows.std() < 6  # the binomial's is 4.5


@pytest.mark.parametrize("where", SIZES)
@pytest.mark.parametrize("seed, ratio", [(0, 0.1), (7, 0.0137)])
def test_aft_chooses_the_entries_of_lift_plus(seed, ratio, where):
    """A fresh generator for every tensor; its first int(ratio n) entries; other methods around it change nothing."""
    tower = vit(64, 3, 2, 4, True)
    chosen = options(["lora", "lora_mlp", "adapter", "ssf"], [0, 2], where=where, size=4)
    aft = {"aft": {"layers": [0, 2], "loc": where, "ratio": ratio, "seed": seed}}
    peft.attach(tower, chosen | aft, num_classes=10)
    assert len(entries_of(tower)) == {"attn": 4, "mlp": 4, "all": 8}[where]
    for linear in entries_of(tower).values():
        for kind in ("weight", "bias"):
            tensor, entries = getattr(linear.wrapped, kind), getattr(linear, kind)
            order = torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(seed))
            mask = torch.zeros(tensor.numel(), dtype=torch.bool)
            mask[order[: int(ratio * tensor.numel())]] = True
            assert torch.equal(entries.values, tensor[mask.view_as(tensor)])  # row by row
            assert torch.equal(entries.index, mask.nonzero().flatten())


@pytest.mark.parametrize("where", SIZES)
@pytest.mark.parametrize("seed, ratio", [(0, 0.1), (7, 0.0137)])
def test_aft_of_lift_chooses_the_entries_of_lift(seed, ratio, where):
    """One generator for all Linears; of weight and bias together, the bias the last column."""
    tower = vit(64, 3, 2, 4, True)
    chosen = options(["lora", "lora_mlp", "adapter", "ssf"], [0, 2], where=where, size=4)
    aft = {"aft": {"layers": [0, 2], "loc": where, "ratio": ratio, "seed": seed}}
    peft.attach(tower, chosen | aft, num_classes=10, variant="lift")
    found = {plain(name): linear for name, linear in entries_of(tower).items()}
    generator = torch.Generator().manual_seed(seed)
    layers = {"attn": LAYERS[:2], "mlp": LAYERS[2:], "all": LAYERS}[where]
    for name in [f"blocks.{i}.{layer}" for i in (0, 2) for layer in layers]:
        linear = found.pop(name)
        out, width = linear.wrapped.weight.shape
        mask = torch.zeros(out * (width + 1), dtype=torch.bool)
        mask[torch.randperm(mask.numel(), generator=generator)[: int(ratio * mask.numel())]] = True
        mask = mask.view(out, width + 1)
        assert torch.equal(linear.weight.values, linear.wrapped.weight[mask[:, :width]])
        assert torch.equal(linear.bias.values, linear.wrapped.bias[mask[:, width]])
        assert torch.equal(linear.weight.index, mask[:, :width].flatten().nonzero().flatten())
        assert torch.equal(linear.bias.index, mask[:, width].nonzero().flatten())
    assert not found


@pytest.mark.parametrize("option", [("v.aft_seed", 1), ("variant", "lift")])
def test_a_test_of_other_entries_is_refused(option, config, few_images):
    """A checkpoint has values without positions; for another seed their number is the same."""
    aft = ("v.aft_ratio", 0.1)
    run = Trainer(config("num_epochs", 1, *aft, method="aft"))
    results = execute(run)
    test = ("test_only", "True", "model_dir", run.run_dir.path)
    assert execute(Trainer(config(*aft, *test, method="aft")))["per_class"] == results["per_class"]
    with refused(CheckpointError):
        execute(Trainer(config(*aft, *test, *option, method="aft")))


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_aft_of_nothing_and_of_everything(ratio):
    tower = tiny_tower()
    images = normal_images(2, 4)
    before = tower(images)
    peft.attach(tower, {"aft": {"ratio": ratio}}, num_classes=10)
    assert torch.equal(tower(images), before)
    trained = sum(p.numel() for p in tower.parameters() if p.requires_grad)
    assert trained == (3 * sum(p.numel() for p in tiny_tower(depth=1).blocks[0].parameters()) - 3 * 4 * 128) * ratio


# ---- ResNets ----


def small_resnet(joint=0):
    torch.manual_seed(0)
    return resnet((1, 1, 1, 1), 8, 64, joint)


@pytest.mark.parametrize("joint", [0, 64])
@pytest.mark.parametrize("names", ["fft", "bitfit", "ssf", "fft+ssf"])
def test_what_trains_in_a_resnet(names, joint):
    """LIFT+: inside the four stages, all parameters or all biases; scale and shift on the pooled feature."""
    tower = small_resnet(joint)
    inside = {id(parameter) for stage in tower.stages for parameter in stage.parameters()}
    names_inside = {name for name, parameter in tower.named_parameters() if id(parameter) in inside}
    images = normal_images(2, 64)
    bare = tower(images)
    peft.attach(tower, options(names.split("+")), num_classes=10)
    trained = {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
    expected = names_inside if "fft" in names else set()
    if "bitfit" in names:
        expected = {name for name in names_inside if name.endswith("bias")}
        assert 0 < len(expected) < len(names_inside)
    if "ssf" in names:
        expected = expected | {"after.scale", "after.shift"}
        assert torch.allclose(tower(images), bare * tower.after.scale + tower.after.shift, rtol=1e-5, atol=1e-6)
    assert trained == expected


@pytest.mark.parametrize("joint", [0, 64])
@pytest.mark.parametrize("names", ["fft", "bitfit", "bn_tuning", "bn_tuning+ssf", "ssf"])
def test_what_trains_in_a_resnet_of_lift(names, joint):
    """The whole visual tower: stem, stages, attention pool."""
    tower = small_resnet(joint)
    parameters = {name for name, _ in tower.named_parameters()}
    norms = {name for name, module in tower.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    in_norms = {f"{name}.{kind}" for name in norms for kind in ("weight", "bias")}
    pool = {f"net.head.{layer}.bias" for layer in ("q", "k", "v", "proj")} if joint else set()
    peft.attach(tower, options(names.split("+")), num_classes=10, variant="lift")
    trained = {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
    expected = {
        "fft": parameters,
        "bitfit": {name for name in in_norms if name.endswith("bias")} | pool,
        "bn_tuning": in_norms,
        "ssf": {"after.scale", "after.shift"},
    }
    assert trained == set().union(*(expected[name] for name in names.split("+")))


@pytest.mark.parametrize("variant", ["lift+", "lift"])
@pytest.mark.parametrize("build", [tiny_tower, lambda: TextTransformer(TextConfig(64, 1, context=8))])
def test_a_transformer_refuses_bn_tuning_before_anything_is_changed(build, variant):
    tower = build()
    state = {name: parameter.requires_grad for name, parameter in tower.named_parameters()}
    with refused(ModelError, kind="method_of_other_tower"):
        peft.attach(tower, options(["ssf", "bn_tuning"]), num_classes=10, variant=variant)
    assert {name: parameter.requires_grad for name, parameter in tower.named_parameters()} == state


@pytest.mark.parametrize("method", [*sorted(set(FIXED_ORDER) - set(OF_RESNETS)), "coop", "proj_tuning", "clip_adapter"])
def test_other_methods_refuse_a_resnet_before_anything_is_changed(method):
    tower = small_resnet()
    state = {name: parameter.requires_grad for name, parameter in tower.named_parameters()}
    with refused(ModelError, kind="method_of_other_tower"):
        peft.attach(tower, options(["fft", "ssf", method]), num_classes=10)
    assert {name: parameter.requires_grad for name, parameter in tower.named_parameters()} == state


def test_layers_mean_nothing_in_a_resnet():
    with refused(ModelError, kind="layers_of_a_resnet", key="bitfit_layers"):
        peft.attach(small_resnet(), options(["bitfit"], layers=2), num_classes=10)


@pytest.mark.parametrize("classes, count", [(100, 101_436), (365, 175_212), (1000, 617_868), (8142, 4_749_324)])
def test_adaptformer_on_vit_b16_has_the_published_number_of_parameters(classes, count):
    with torch.device("meta"):
        tower = Backbone(BACKBONES["clip_vit_b16"].config).image
        frozen = sum(parameter.numel() for parameter in tower.parameters())
        peft.attach(tower, options(["adaptformer"]), classes)
        model = Model(tower, CosineClassifier(classes, 768, scale=25.0), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert frozen == 85_799_424  # torchvision's vit_b_16 has 85,798,656 without its head; CLIP's: no patch bias, ln_pre
    head = classes * 768
    wanted = {"total": frozen + count + head, "trained": count + head, "peft": count, "head": head}
    assert count_parameters(model) == wanted


# ---- plain arguments ----


def test_options_by_name_or_as_a_dataclass():
    """The same tower from a dict, from the method's Options, and from keys of the configuration."""
    towers = []
    keys = {"lora": True, "lora_dim": 4, "lora_layers": (1,), "lora_mlp": False, "lora_mlp_dim": 2, "ssf": False}
    given = {"dim": 4, "layers": (1,)}
    for methods in (given, METHODS["lora"].Options(**given), peft.methods_from_keys(keys)["lora"]):
        torch.manual_seed(0)
        tower = vit(6, 2, 2, 4, True)
        peft.attach(tower, {"lora": methods}, num_classes=10)
        towers.append(dict(tower.named_parameters()))
    assert "blocks.1.attn.qkv.q.down.weight" in towers[0] and "blocks.0.attn.qkv.weight" in towers[0]
    for other in towers[1:]:
        assert other.keys() == towers[0].keys()
        assert all(torch.equal(value, other[name]) for name, value in towers[0].items())


@pytest.mark.parametrize(
    "methods, kind",
    [
        ({"lorra": {}}, "unknown_method"),
        ({"lora": {"rank": 4}}, "unknown_option"),
        ({"proj_tuning": {"dim": 4}}, "unknown_option"),
        ({"clip_adapter": {}}, "method_of_other_tower"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_changed(methods, kind):
    tower = vit(6, 2, 2, 4, True)
    with refused(ModelError, kind=kind):
        peft.attach(tower, {"ssf": {}} | methods, num_classes=10)
    assert all(parameter.requires_grad for parameter in tower.parameters())


# ---- composition ----


def test_methods_attach_in_the_fixed_order():
    """With any methods added between them."""
    assert [name for name in METHODS if name in FIXED_ORDER] == FIXED_ORDER
    assert list(FORMULAS) == FIXED_ORDER


def test_order_of_the_options_changes_nothing():
    """The same tensors, in the same order, with the same random values."""
    towers = []
    for methods in (FIXED_ORDER, reversed(FIXED_ORDER)):
        torch.manual_seed(0)
        tower = vit(6, 2, 2, 4, True)
        peft.attach(tower, options(methods, size=2), num_classes=10)
        towers.append(tower)
    first, second = (list(tower.named_parameters()) for tower in towers)
    assert [name for name, _ in first] == [name for name, _ in second]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, second, strict=True))


def test_earlier_prompt_is_dropped_only_where_there_is_a_new_one():
    """Blocks 0 and 2 of 4 insert 3 prompt tokens among 1 + 4: never 6; blocks 1 and 3 keep those they receive."""
    tower = tiny_tower(depth=5, methods=["pt"], layers=[1, 3], size=3)
    tokens = []
    for block in tower.blocks:
        block.attn.register_forward_hook(lambda module, args, output: tokens.append(args[0].shape[1]))
    tower(normal_images(1, 4))
    assert tokens == [5, 8, 8, 8, 8]


@pytest.mark.parametrize("case", numbered(30, sample=10))
def test_any_combination_is_its_formula(case):
    generator = torch.Generator().manual_seed(100 + case)
    methods = [name for name in FIXED_ORDER if torch.rand((), generator=generator) < 0.5] or ["ssf"]
    tower = vit(10, 2, 2, 4, True)
    peft.attach(tower, options(methods, layers=[1], size=3), num_classes=10)
    tower = randomize(tower, seed=case).double()
    images = normal_images(1, 4, seed=case).double()
    assert_is_formula(tower, images, lambda image, p: image_formula(image, p, 2, 2, True, extras(methods), [1]))
