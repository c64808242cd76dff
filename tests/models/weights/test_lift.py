"""Checkpoints of LIFT: files written in its naming, and a plain implementation of LIFT that computes their logits.

The plain one reads only LIFT's names, and open_clip's or timm's for frozen tensors; ResNets and full tuning are
computed by open_clip's and timm's own modules.
"""

import copy
import json

import helpers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import covering
from helpers import CLIP_DEPTH, CLIP_DIM, CLIP_RESOLUTION, RESNET_RESOLUTION, normal_images, refused, resnet, vit
from torch import nn

import main as cli
from datasets.loading.crops import build_test_crops
from datasets.sets import digits_lt
from models import Model, build_backbone, convert_upstream, peft
from models.heads import HEADS
from models.weights.lift import parameter_order
from models.weights.lift_plus import published_name
from utils.config import completed, load_config
from utils.config.schema import FORMER_VALUES
from utils.errors import CheckpointError, ModelError
from utils.run import checkpoint
from utils.run.directory import RunDir

CLASSES, WIDTH, TOKENS, RATIO = 5, 3, 2, 0.01
KINDS = ("weight", "bias")
LINEARS = {"attn_in": (384, 128), "attn_out": (128, 128), "mlp_in": (512, 128), "mlp_out": (128, 512)}  # [out, in]
FROZEN = {  # a Linear's weight and bias in open_clip's block
    "attn_in": ("attn.in_proj_weight", "attn.in_proj_bias"),
    "attn_out": ("attn.out_proj.weight", "attn.out_proj.bias"),
    "mlp_in": ("mlp.c_fc.weight", "mlp.c_fc.bias"),
    "mlp_out": ("mlp.c_proj.weight", "mlp.c_proj.bias"),
}
BIASES = ("attn.in_proj_bias", "attn.out_proj.bias", "ln_1.bias", "mlp.c_fc.bias", "mlp.c_proj.bias", "ln_2.bias")
PARTS = ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias", *sum(FROZEN.values(), ()))
# native options of each method of LIFT; those in EVERY_BLOCK and SHALLOW ignore `partial`
OURS = {
    "full_tuning": {"fft": True},
    "bias_tuning": {"bitfit": True},
    "ln_tuning": {"ln_tuning": True},
    "vpt_shallow": {"pt": True, "pt_len": TOKENS},
    "vpt_deep": {"pt": True, "pt_len": TOKENS},
    "adapter": {"adapter": True, "adapter_dim": WIDTH},
    "adaptformer": {"adaptformer": True, "adaptformer_dim": WIDTH},
    "lora": {"lora": True, "lora_dim": WIDTH},
    "ssf_attn": {"ssf": True, "ssf_loc": "attn"},
    "ssf_mlp": {"ssf": True, "ssf_loc": "mlp"},
    "ssf_ln": {"ssf_ln": True},
    "mask": {"aft": True, "aft_ratio": RATIO, "aft_loc": "all", "aft_seed": 3},
}
EVERY_BLOCK, SHALLOW = ("bias_tuning", "ln_tuning"), ("vpt_shallow",)
ALL = "+".join(name for name in OURS if name not in ("vpt_shallow", "full_tuning"))
MIXED = ["ssf_attn+ssf_mlp", "full_tuning+bias_tuning+ln_tuning", ALL]
PARTIAL = {"None": (0, 1, 2), "0": (), "1": (2,), "2": (1, 2), "[0,2]": (0, 1), "[1,2]": (1,)}  # of three blocks


def layers_of(method, layers, depth=CLIP_DEPTH):
    """The blocks of a method, for the blocks of `partial`."""
    return tuple(range(depth)) if method in EVERY_BLOCK else (0,) if method in SHALLOW else layers


# ---- a writer of LIFT's naming ----


def bottleneck_shapes(prefix):
    parts = (("ln", (128,)), ("down_proj", (WIDTH, 128)), ("up_proj", (128, WIDTH)))
    weights = {f"{prefix}.{part}.weight": shape for part, shape in parts}
    return weights | {f"{prefix}.{part}.bias": shape[:1] for part, shape in parts}


def ssf_shapes(prefix, widths):
    return {f"{prefix}.{layer}.{kind}": widths[layer][:1] for layer in widths for kind in ("scale", "shift")}


# {name: shape} of the tensors in LIFT's file for a method's i-th block, as in the table of docs/methods.md
SHAPES = {
    "adapter": lambda i: bottleneck_shapes(f"adapter_list.{i}"),
    "adaptformer": lambda i: bottleneck_shapes(f"adaptformer_list.{i}") | {f"adaptformer_list.{i}.scale": (1,)},
    "lora": lambda i: {
        f"lora_list.{i}.{part}.lora_{matrix}": shape
        for part in "qv"
        for matrix, shape in (("A", (128, WIDTH)), ("B", (WIDTH, 128)))
    },
    "vpt_shallow": lambda i: {f"vpt_list.{i}.prompt": (TOKENS, 128)},
    "vpt_deep": lambda i: {f"vpt_list.{i}.prompt": (TOKENS, 128)},
    "ssf_attn": lambda i: ssf_shapes(f"ssf_attn_list.{i}", {n: LINEARS[n] for n in ("attn_in", "attn_out")}),
    "ssf_mlp": lambda i: ssf_shapes(f"ssf_mlp_list.{i}", {n: LINEARS[n] for n in ("mlp_in", "mlp_out")}),
    "ssf_ln": lambda i: ssf_shapes(f"ssf_ln_list.{i}", {"ln_1": (128,), "ln_2": (128,)}),
    "full_tuning": lambda i: {f"block_tuned.{i}.{name}": part_shape(name) for name in PARTS},
    "bias_tuning": lambda i: {f"bias_tuned.{6 * i + n}": part_shape(name) for n, name in enumerate(BIASES)},
    "ln_tuning": lambda i: {f"ln_tuned.{2 * i + n}.{kind}": (128,) for n in (0, 1) for kind in KINDS},
    "mask": lambda i: {
        f"masked_linear_list.{i}.{layer}.optimized_{kind}": (int(mask.sum()),)
        for (block, layer), both in masks(i + 1).items()
        for kind, mask in zip(KINDS, both, strict=True)
        if block == i
    },
}


def shapes_of(method, count):
    """{name: shape} of a method in this number of blocks."""
    shapes = {}
    for i in range(count):
        shapes |= SHAPES[method](i)
    return shapes


def part_shape(name):
    for layer, names in FROZEN.items():
        if name in names:
            return LINEARS[layer][: 2 - names.index(name)]
    return (128,)


def masks(count, seed=3, ratio=RATIO):
    """{(i, layer): (bool [out, in], bool [out])}: one generator, a permutation for each Linear, the bias last."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for i in range(count):
        for layer, (out, width) in LINEARS.items():
            mask = torch.zeros(out * (width + 1), dtype=torch.bool)
            mask[torch.randperm(len(mask), generator=generator)[: int(ratio * len(mask))]] = True
            found[i, layer] = mask.view(out, width + 1)[:, :-1], mask.view(out, width + 1)[:, -1]
    return found


def random_tensors(shapes, seed=1):
    """Values of sensible size; scales are near one."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator) / max(shape[1:], default=10) ** 0.5
        tensors[name] = noise + name.endswith(("scale", "ln.weight", "ln_1.weight", "ln_2.weight"))
    return tensors


def write(names, layers, head="CosineClassifier"):
    """The content of LIFT's file of a run with these methods in these blocks of `partial`."""
    shapes = {}
    for method in names.split("+"):
        shapes |= shapes_of(method, len(layers_of(method, layers)))
    tuner = random_tensors(shapes)
    # a tensor that two methods train is one there, under both names
    same = {f"bias_tuned.{6 * i + 3 * n + 2}": f"ln_tuned.{2 * i + n}.bias" for i in range(3) for n in (0, 1)}
    for i, layer in enumerate(layers):
        same |= {f"block_tuned.{i}.{name}": f"bias_tuned.{6 * layer + n}" for n, name in enumerate(BIASES)}
        same |= {f"block_tuned.{i}.ln_{n + 1}.weight": f"ln_tuned.{2 * layer + n}.weight" for n in (0, 1)}
    for name, other in same.items():
        if name in tuner and other in tuner:
            tuner[name] = tuner[other]
    shapes = {"weight": (CLASSES, 128)} | ({"bias": (CLASSES,)} if head == "LinearClassifier" else {})
    return {"tuner": tuner, "head": random_tensors(shapes, seed=2)}


# ---- a plain implementation of LIFT ----


def norm(x, name, p, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], eps)


def starting_with(prefix, tensors):
    """{the rest of the name: tensor}"""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def bottleneck(x, p):
    hidden = F.relu(norm(x, "ln", p) @ p["down_proj.weight"].T + p["down_proj.bias"])
    return hidden @ p["up_proj.weight"].T + p["up_proj.bias"]


def block_tensors(block, i, frozen, tuner, drawn):
    """The tensors of a block by open_clip's names, replaced by tuned ones; i: its number in the file."""
    p = starting_with(f"transformer.resblocks.{block}.", frozen)
    for n, name in enumerate(BIASES):  # these two count all blocks
        p[name] = tuner.get(f"bias_tuned.{6 * block + n}", p[name])
    for n in (0, 1):
        for kind in KINDS:
            p[f"ln_{n + 1}.{kind}"] = tuner.get(f"ln_tuned.{2 * block + n}.{kind}", p[f"ln_{n + 1}.{kind}"])
    p |= starting_with(f"block_tuned.{i}.", tuner)
    for layer, names in FROZEN.items():
        for name, kind, mask in zip(names, KINDS, drawn.get((i, layer), ()), strict=False):
            values = tuner.get(f"masked_linear_list.{i}.{layer}.optimized_{kind}")
            if values is not None:
                p[name] = p[name].clone()
                p[name][mask] = values
    return p


def lora(x, i, part, tuner):
    p = starting_with(f"lora_list.{i}.{part}.lora_", tuner)
    return x @ p["A"] @ p["B"] / p["A"].shape[1] if p else 0


def block_of_lift(x, i, p, tuner, heads):
    """A block on tokens [B, N, D]; p: its tensors by open_clip's names."""

    def ssf(y, kind, layer):
        own = starting_with(f"ssf_{kind}_list.{i}.{layer}.", tuner)
        return y * own["scale"] + own["shift"] if own else y

    y = ssf(norm(x, "ln_1", p), "ln", "ln_1")
    q, k, v = (y @ p["attn.in_proj_weight"].T + p["attn.in_proj_bias"]).chunk(3, dim=-1)
    qkv = torch.cat([q + lora(y, i, "q", tuner), k, v + lora(y, i, "v", tuner)], dim=-1)
    parts = ssf(qkv, "attn", "attn_in").chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
    y = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
    y = y.transpose(1, 2).flatten(2) @ p["attn.out_proj.weight"].T + p["attn.out_proj.bias"]
    x = x + ssf(y, "attn", "attn_out")
    y = ssf(norm(x, "ln_2", p), "ln", "ln_2")
    y = ssf(y @ p["mlp.c_fc.weight"].T + p["mlp.c_fc.bias"], "mlp", "mlp_in")
    y = y * torch.sigmoid(1.702 * y)
    y = ssf(y @ p["mlp.c_proj.weight"].T + p["mlp.c_proj.bias"], "mlp", "mlp_out")
    adapter, adaptformer = (starting_with(f"{name}_list.{i}.", tuner) for name in ("adapter", "adaptformer"))
    y = y + bottleneck(y, adapter) if adapter else y
    return x + y + (adaptformer["scale"] * bottleneck(x, adaptformer) if adaptformer else 0)


def lift_features(images, frozen, tuner, layers, depth=CLIP_DEPTH, heads=2):
    """CLIP's image features [B, D], float64, with the tensors of LIFT's file; frozen: open_clip's visual tensors.

    layers: the blocks of `partial`.
    """
    frozen = {name: value.double() for name, value in frozen.items()}
    tuner = {name: value.double() for name, value in tuner.items()}
    drawn = masks(len(layers))
    x = F.conv2d(images.double(), frozen["conv1.weight"], stride=frozen["conv1.weight"].shape[-1])
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([frozen["class_embedding"].expand(len(x), 1, -1), x], dim=1) + frozen["positional_embedding"]
    patches = x.shape[1]
    x = norm(x, "ln_pre", frozen)
    for block in range(depth):
        i = layers.index(block) if block in layers else None
        if f"vpt_list.{i}.prompt" in tuner:  # after the patches, in place of earlier ones
            prompt = tuner[f"vpt_list.{i}.prompt"].expand(len(x), -1, -1)
            x = torch.cat([x[:, :patches], prompt], dim=1)
        x = block_of_lift(x, i, block_tensors(block, i, frozen, tuner, drawn), tuner, heads)
    return norm(x[:, 0], "ln_post", frozen)


def lift_logits(features, head, kind, scale=25.0):
    """LIFT's classifiers on float64 features."""
    head = {name: value.double() for name, value in head.items()}
    if kind == "LinearClassifier":
        return features @ head["weight"].T + head["bias"]
    rows = head["weight"] / head["weight"].norm(dim=1, keepdim=True)
    if kind == "CosineClassifier":
        return scale * features / features.norm(dim=1, keepdim=True) @ rows.T
    if kind == "LayerNormClassifier":
        features = (features - features.mean(1, keepdim=True)) / (features.var(1, False, keepdim=True) + 1e-12) ** 0.5
    return features @ rows.T


# ---- native ----


@pytest.fixture(scope="module")
def clip_pair(tmp_path_factory):
    return helpers.clip_pair(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def timm_pair(tmp_path_factory):
    return helpers.vit_pair(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def resnet_pair(tmp_path_factory):
    return helpers.clip_resnet_pair(tmp_path_factory.mktemp("weights"))


def our_model(backbone, names, layers, head="CosineClassifier", variant="lift"):
    """A new model with LIFT's methods by native options, and random trainable parameters."""
    tower, options = copy.deepcopy(backbone.image), {}
    for method in names.split("+"):
        options |= OURS[method] | {f"{next(iter(OURS[method]))}_layers": list(layers_of(method, layers))}
    if "ssf_attn+ssf_mlp" in names:
        options["ssf_loc"] = "all"
    peft.attach(tower, peft.methods_from_keys(options), CLASSES, variant=variant)
    model = Model(tower, HEADS[head](CLASSES, tower.dim, scale=25.0), (0.5,) * 3, (0.5,) * 3)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def load(model, content, folder):
    """As a test run does with a file of that content."""
    torch.save(content, folder / "checkpoint.pth.tar")
    checkpoint.restore(model, RunDir(folder).find_checkpoint(), {"backbone": "any"}, convert_upstream)
    return model.double().eval()


# those of `partial` that differ most, with each method, and each of the others with a few
CASES = covering([*OURS, *MIXED], [*PARTIAL], together=1)
CASES += [case for case in covering([*OURS, *MIXED], ["1", "[0,2]"]) if case not in CASES]


@pytest.mark.parametrize(("names", "partial"), CASES)
@torch.no_grad()
def test_a_file_of_every_method_gives_lifts_logits(names, partial, clip_pair, tmp_path):
    layers = PARTIAL[partial]
    content = write(names, layers)
    model = load(our_model(clip_pair[1], names, layers), content, tmp_path)
    images = normal_images(3, CLIP_RESOLUTION)
    of_vpt = layers if names not in SHALLOW else (0,)
    features = lift_features(images, clip_pair[0].visual.state_dict(), content["tuner"], of_vpt)
    expected = lift_logits(features, content["head"], "CosineClassifier")
    found = model.head(model.tower(images.double()))
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-8)
    bare = lift_features(images, clip_pair[0].visual.state_dict(), {}, ())
    assert torch.allclose(features, bare) == (not content["tuner"])  # the file matters


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_a_file_of_every_head_gives_lifts_logits(head, clip_pair, tmp_path):
    content = write("adaptformer", (0, 1, 2), head)
    model = load(our_model(clip_pair[1], "adaptformer", (0, 1, 2), head), content, tmp_path)
    images = normal_images(3, CLIP_RESOLUTION)
    features = lift_features(images, clip_pair[0].visual.state_dict(), content["tuner"], (0, 1, 2))
    expected = lift_logits(features, content["head"], head)
    assert torch.allclose(model.head(model.tower(images.double())), expected, rtol=1e-8, atol=1e-8)


@torch.no_grad()
def test_methods_may_have_layers_of_their_own(clip_pair, tmp_path):
    """In the native form; i counts the blocks of each method."""
    tuner = random_tensors(shapes_of("adaptformer", 1) | shapes_of("lora", 2))
    tower = copy.deepcopy(clip_pair[1].image)
    own = {"adaptformer": True, "adaptformer_dim": WIDTH, "adaptformer_layers": [1]}
    own |= {"lora": True, "lora_dim": WIDTH, "lora_layers": [0, 2]}
    peft.attach(tower, peft.methods_from_keys(own), CLASSES)
    model = Model(tower, HEADS["CosineClassifier"](CLASSES, CLIP_DIM, 25.0), (0.5,) * 3, (0.5,) * 3)
    load(model, {"tuner": tuner, "head": {"weight": torch.randn(CLASSES, CLIP_DIM)}}, tmp_path)
    blocks = model.tower.blocks
    assert torch.equal(blocks[1].side.up.weight.float(), tuner["adaptformer_list.0.up_proj.weight"])
    for i, block in enumerate((blocks[0], blocks[2])):
        assert torch.equal(block.attn.qkv.v.down.weight.float(), tuner[f"lora_list.{i}.v.lora_A"].T)


COMMANDS = {  # LIFT's options on ViT-B/16: in its file the tensors, the count of their numbers, and their first block
    "adaptformer True": ("adaptformer_list", 12, 0),
    "adaptformer True partial 6": ("adaptformer_list", 6, 6),
    "adapter True partial [2,5]": ("adapter_list", 3, 2),
    "lora True partial 1": ("lora_list", 1, 11),
    "vpt_deep True partial 3": ("vpt_list", 3, 9),
    "vpt_shallow True partial 3": ("vpt_list", 1, 0),
    "ssf_attn True partial 2": ("ssf_attn_list", 2, 10),
    "ssf_mlp True": ("ssf_mlp_list", 12, 0),
    "full_tuning True partial 2": ("block_tuned", 2, 10),
    "full_tuning True partial 0": ("block_tuned", 0, 0),
    "bias_tuning True partial 2": ("bias_tuned", 72, 0),
    "ln_tuning True partial 0": ("ln_tuned", 24, 0),
    "mask True mask_ratio .01 partial 4": ("masked_linear_list", 4, 8),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_lift_expects_what_its_file_holds(command):
    """The whole way from LIFT's command line to the names in its file."""
    prefix, count, first = COMMANDS[command]
    cfg = load_config("cifar100_ir100", None, "clip_vit_b16", command.split())
    tower = vit(64, 12, 2, 4, True)
    peft.attach(tower, peft.methods_from_keys(cfg.v), 100, cfg.variant)
    model = Model(tower, HEADS[cfg.classifier](100, 64, 25.0), (0.5,) * 3, (0.5,) * 3)
    targets, _ = convert_upstream(model, {"tuner": {}, "head": {}})
    assert {name.split(".")[0] for name in targets} == {"head"} | ({prefix} if count else set())
    assert {int(name.split(".")[1]) for name in targets if name != "head.weight"} == set(range(count))
    trained = {int(name.split(".")[1]) for name, p in tower.named_parameters() if p.requires_grad}
    assert min(trained, default=0) == first
    assert len(targets) == 1 + sum(p.requires_grad for p in tower.parameters())


TIMM = {"norm1": "ln_1", "norm2": "ln_2", "attn.proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


@pytest.mark.parametrize("naming", ["timm", "clip"])
@pytest.mark.parametrize("partial", ["None", "2", "[0,2]"])
@torch.no_grad()
def test_full_and_bias_tuning_of_timms_tower(partial, naming, timm_pair, tmp_path):
    """Computed by timm; block_tuned has timm's names there, and CLIP's are accepted."""
    layers, theirs = PARTIAL[partial], copy.deepcopy(timm_pair[0]).double()
    images = normal_images(3, 64)
    tuner = random_tensors(shapes_of("full_tuning", len(layers)))
    for i, layer in enumerate(layers):
        for name, parameter in theirs.blocks[layer].named_parameters():
            clip = name.replace("attn.qkv.", "attn.in_proj_")
            for timm, other in TIMM.items():
                clip = clip.replace(timm, other)
            parameter.copy_(tuner[f"block_tuned.{i}.{clip}"])
            if naming == "timm":
                tuner[f"block_tuned.{i}.{name}"] = tuner.pop(f"block_tuned.{i}.{clip}")
    content = {"tuner": tuner, "head": write("full_tuning", ())["head"]}
    model = load(our_model(timm_pair[1], "full_tuning", layers), content, tmp_path)
    features = theirs.forward_features(images.double())[:, 0]
    expected = lift_logits(features, content["head"], "CosineClassifier")
    assert torch.allclose(model.head(model.tower(images.double())), expected, rtol=1e-8, atol=1e-8)


# ---- ResNets ----


def resnet_model(backbone, options, variant="lift"):
    tower = copy.deepcopy(backbone.image)
    peft.attach(tower, peft.methods_from_keys(options), CLASSES, variant=variant)
    tower.precision = None
    head = HEADS["CosineClassifier"](CLASSES, tower.dim, 25.0)
    return Model(tower, head, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    "names", ["bias", "full", "bn", "bn plain", "ssf", "bias+ssf", "bias+bn", "full+bias+bn+ssf", "head"]
)
@torch.no_grad()
def test_a_file_of_a_resnet_gives_lifts_logits(names, resnet_pair, tmp_path):
    """Computed by open_clip's own module, with the values of the lists in its parameters, in its order."""
    theirs, images = copy.deepcopy(resnet_pair[0].visual), normal_images(3, RESNET_RESOLUTION)
    methods, plain = names.removesuffix(" plain").split("+"), names.endswith("plain")
    generator, tuner, options = torch.Generator().manual_seed(0), {}, {}

    def changed(tensor):
        tensor.copy_(tensor + 0.1 * torch.rand(tensor.shape, generator=generator))
        return tensor  # the same tensor, as it may be in two lists

    if "full" in methods:
        tuner |= {f"full_list.{n}": changed(p) for n, p in enumerate(theirs.parameters())}
        options |= {"fft": True}
    if "bias" in methods:
        biases = [p for name, p in theirs.named_parameters() if name.endswith("bias")]
        tuner |= {f"bias_list.{n}": changed(p) for n, p in enumerate(biases)}
        options |= {"bitfit": True}
    if "bn" in methods:
        norms = [module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)]
        for n, norm in enumerate(norms):
            changed(norm.weight)
            changed(norm.bias)
            if plain:
                tuner |= {f"bn_list.{2 * n}": norm.weight, f"bn_list.{2 * n + 1}": norm.bias}
            else:
                changed(norm.running_mean)
                changed(norm.running_var)
                norm.num_batches_tracked.fill_(n)
                tuner |= {f"bn_list.{n}.{name}": value for name, value in norm.state_dict().items()}
        options |= {"bn_tuning": True}
    scale, shift = 1 + torch.rand(resnet_pair[1].image.dim), torch.rand(resnet_pair[1].image.dim)
    if "ssf" in methods:
        tuner |= {"ssf_attn.scale": scale, "ssf_attn.shift": shift}
        options |= {"ssf": True, "ssf_loc": "attn"}
    content = {"tuner": {name: value.detach() for name, value in tuner.items()}}
    content["head"] = random_tensors({"weight": (CLASSES, resnet_pair[1].image.dim)})
    model = load(resnet_model(resnet_pair[1], options), content, tmp_path)
    features = theirs.double().eval()(images.double())
    features = features * scale.double() + shift.double() if "ssf" in methods else features
    expected = lift_logits(features, content["head"], "CosineClassifier")
    assert torch.allclose(model.head(model.tower(images.double())), expected, rtol=1e-8, atol=1e-8)
    if "bn" in methods and not plain:
        counts = {
            published_name(f"net.{name}.weight"): int(module.num_batches_tracked)
            for name, module in model.tower.net.named_modules()
            if isinstance(module, nn.BatchNorm2d)
        }
        first = ("bn1", "bn2", "bn3", "layer1.0.bn1", "layer1.0.bn2", "layer1.0.bn3", "layer1.0.downsample.1")
        assert [counts[f"{name}.weight"] for name in first] == list(range(7))


def test_the_order_of_a_resnet_is_open_clips(resnet_pair):
    for depths in ((1, 2, 1, 1), (3, 4, 6, 3), (12, 2, 11, 1)):  # "10" comes after "9"
        from open_clip.modified_resnet import ModifiedResNet

        with torch.device("meta"):
            ours, theirs = resnet(depths, 8, 64, 48), ModifiedResNet(depths, 48, 4, 64, 8)
        assert [published_name(name) for name in parameter_order(ours)] == [n for n, _ in theirs.named_parameters()]


@torch.no_grad()
def test_a_file_of_timms_resnet_is_in_timms_order(tmp_path, tmp_path_factory):
    theirs, ours = helpers.resnet_pair(tmp_path_factory.mktemp("weights"))
    values = [torch.rand_like(p) for name, p in theirs.named_parameters() if not name.startswith("fc.")]
    content = {"tuner": {f"full_list.{n}": value for n, value in enumerate(values)}}
    content["head"] = random_tensors({"weight": (CLASSES, ours.image.dim)})
    model = load(resnet_model(ours, {"fft": True}), content, tmp_path)
    found = dict(model.tower.net.named_parameters())
    names = [name for name, _ in theirs.named_parameters() if not name.startswith("fc.")]
    assert all(torch.equal(found[name].float(), value) for name, value in zip(names, values, strict=True))


# ---- strictness ----

EVERY = (0, 1, 2)


def assert_refused(
    clip_pair, names, content, folder, error=CheckpointError, layers=EVERY, kind="other_tensors", **options
):
    """Loading raises an error before it changes the model."""
    model = our_model(clip_pair[1], names, layers, **options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with refused(error, kind=kind):
        load(model, content, folder)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "names, missing",
    [
        ("adaptformer", "adaptformer_list.2.scale"),
        ("adapter", "adapter_list.0.down_proj.bias"),
        ("lora", "lora_list.1.v.lora_B"),
        ("vpt_deep", "vpt_list.1.prompt"),
        ("ssf_attn", "ssf_attn_list.0.attn_out.shift"),
        ("full_tuning", "block_tuned.1.mlp.c_fc.weight"),
        ("bias_tuning", "bias_tuned.17"),
        ("ln_tuning", "ln_tuned.5.weight"),
        ("mask", "masked_linear_list.2.mlp_out.optimized_bias"),
    ],
)
def test_a_missing_tensor_is_named(names, missing, clip_pair, tmp_path):
    content = write(names, EVERY)
    del content["tuner"][missing]
    assert_refused(clip_pair, names, content, tmp_path)


@pytest.mark.parametrize("extra", ["vpt_list.0.prompt", "adaptformer_list.3.scale", "bias_tuned.0", "something"])
def test_an_unexpected_tensor_is_named(extra, clip_pair, tmp_path):
    content = write("adaptformer", EVERY)
    content["tuner"][extra] = torch.zeros(2)
    assert_refused(clip_pair, "adaptformer", content, tmp_path)


def test_another_partial_is_refused(clip_pair, tmp_path):
    content = write("adaptformer", (1, 2))
    assert_refused(clip_pair, "adaptformer", content, tmp_path)
    content = write("adaptformer", EVERY)
    assert_refused(clip_pair, "adaptformer", content, tmp_path, layers=(1, 2))


def test_another_head_is_refused(clip_pair, tmp_path):
    """The original keeps its own without a warning."""
    content = write("adaptformer", EVERY)
    content["head"]["weight"] = torch.zeros(6, 128)
    assert_refused(clip_pair, "adaptformer", content, tmp_path)
    content = write("adaptformer", EVERY, "LinearClassifier")
    assert_refused(clip_pair, "adaptformer", content, tmp_path)
    content = write("adaptformer", EVERY)
    assert_refused(clip_pair, "adaptformer", content, tmp_path, head="LinearClassifier")
    for head in ({}, None):
        content["head"] = head
        if head is None:
            del content["head"]
        assert_refused(clip_pair, "adaptformer", content, tmp_path)


def test_another_width_is_refused(clip_pair, tmp_path):
    content = write("lora", EVERY)
    content["tuner"]["lora_list.0.q.lora_A"] = torch.zeros(128, 4)
    assert_refused(clip_pair, "lora", content, tmp_path)


def test_a_mask_needs_lifts_places(clip_pair, tmp_path):
    content = write("mask", EVERY)
    assert_refused(clip_pair, "mask", content, tmp_path, ModelError, kind="other_variant", variant="lift+")
    content = write("adaptformer", EVERY)
    load(our_model(clip_pair[1], "adaptformer", EVERY, variant="lift+"), content, tmp_path)  # without positions, so any


def test_a_mask_of_another_seed_is_refused_by_its_number_of_biases(clip_pair, tmp_path, monkeypatch):
    content = write("mask", EVERY)
    monkeypatch.setitem(OURS, "mask", OURS["mask"] | {"aft_seed": 4})
    assert_refused(clip_pair, "mask", content, tmp_path)


@pytest.mark.parametrize("options, name", [({"fft": True}, "full_list.0"), ({"bitfit": True}, "bias_list.0")])
def test_a_whole_resnet_needs_lifts_variant(options, name, resnet_pair, tmp_path):
    model = resnet_model(resnet_pair[1], options, "lift+")
    with refused(ModelError, kind="other_variant", key="variant"):
        load(model, {"tuner": {name: torch.zeros(1)}, "head": {}}, tmp_path)


def test_one_tensor_with_two_values_is_refused(clip_pair, tmp_path):
    content = write("bias_tuning+ln_tuning", EVERY)
    content["tuner"]["bias_tuned.5"] = content["tuner"]["bias_tuned.5"] + 1
    assert_refused(clip_pair, "bias_tuning+ln_tuning", content, tmp_path, ModelError, kind="contradiction")


def test_a_method_that_lift_has_no_names_for_is_found_missing(clip_pair, tmp_path, monkeypatch):
    monkeypatch.setitem(OURS, "lora_mlp", {"lora_mlp": True, "lora_mlp_dim": 2})
    assert_refused(clip_pair, "adaptformer+lora_mlp", write("adaptformer", EVERY), tmp_path)


@pytest.mark.parametrize("head", [7, [torch.ones(2)], {1: torch.ones(2)}, {"weight": "no"}])
def test_a_head_that_is_not_a_state_dict_is_refused(head, clip_pair, tmp_path):
    content = write("adaptformer", EVERY) | {"head": head}
    assert_refused(clip_pair, "adaptformer", content, tmp_path, kind="damaged_upstream_checkpoint")


# ---- a run ----


def test_a_run_tests_such_a_checkpoint(random_clip, tmp_path, monkeypatch):
    """main.py on the digits: the logits that it saves are those of the plain implementation."""
    monkeypatch.chdir(tmp_path)
    shapes = shapes_of("adaptformer", 1) | shapes_of("mask", 1) | shapes_of("bias_tuning", 2)
    content = {"tuner": random_tensors(shapes), "head": random_tensors({"weight": (10, 128)}, seed=2)}
    (tmp_path / "theirs").mkdir()
    torch.save(content, tmp_path / "theirs/checkpoint.pth.tar")
    options = ["variant", "lift", "weights", random_clip, "prec_test", "fp32", "num_workers", 0, "save_logits", "True"]
    options += ["test_only", "True", "model_dir", "theirs", "v.adaptformer_dim", WIDTH, "v.adaptformer_layers", 1]
    options += ["v.aft", "True", "v.aft_ratio", RATIO, "v.aft_seed", 3, "v.aft_layers", 1, "v.bitfit", "True"]
    options = [str(option) for option in options]
    assert cli.main(["-d", "digits_lt", "-b", "clip_vit", "-m", "lift", *options]) == 0

    cfg = completed(load_config("digits_lt", "clip_vit", "lift", options), FORMER_VALUES)
    images = torch.from_numpy(digits_lt.build("digits_lt", None).test.images.pixels[:5]).permute(0, 3, 1, 2)
    crops = torch.cat([build_test_crops(cfg, 32)(image) for image in images])
    backbone, _ = build_backbone(cfg)
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    state = torch.load(random_clip, weights_only=True)
    visual = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    features = lift_features((crops.float() - mean) / std, visual, content["tuner"], (1,), depth=2)
    expected = lift_logits(features, content["head"], "CosineClassifier").numpy()
    with np.load(next((tmp_path / "theirs").glob("logits_*.npz"))) as file:
        assert np.allclose(file["logits"][:5], expected, rtol=1e-3, atol=1e-3)
    results = json.loads(next((tmp_path / "theirs").glob("results_*.json")).read_text())
    assert results["params"]["peft"] == sum(value.numel() for value in content["tuner"].values())
