"""Checkpoints of LIFT (arXiv 2309.10019), {"tuner": tensors, "head": tensors}, and their distinction from LIFT+'s.

LIFT numbers the blocks that a method trains from the first of them, and the tensors of some methods through all blocks.
So the native tensors are listed under upstream names, as views in LIFT's shapes, and a file is copied into them.
"""

import re
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from models.backbones.families.clip import BLOCK as CLIP_BLOCK
from models.backbones.naming import Rename, rename
from models.backbones.resnet import ResNet
from models.backbones.tower import Tower
from models.weights.lift_plus import convert_lift_plus_checkpoint, published_name
from utils.errors import ModelError

KINDS = ("weight", "bias")
LAYERS = {"attn.qkv": "attn_in", "attn.proj": "attn_out", "mlp.fc1": "mlp_in", "mlp.fc2": "mlp_out"}
BOTTLENECK = {
    f"{upstream}.{kind}": f"{native}.{kind}"
    for upstream, native in (("ln", "norm"), ("down_proj", "down"), ("up_proj", "up"))
    for kind in KINDS
}
# {upstream name: native name in a block}, by method; i: the block's number among those of the method
BLOCK_NAMES: dict[str, dict[str, str]] = {
    "fft": {
        f"block_tuned.i{upstream}{kind}": f"{native[1:]}{kind}" for upstream, native in CLIP_BLOCK for kind in KINDS
    },
    "pt": {"vpt_list.i.prompt": "prompt.tokens"},
    "lora": {
        f"lora_list.i.{part}.lora_{upstream}": f"attn.qkv.{part}.{native}.weight"
        for part in "qv"
        for upstream, native in (("A", "down"), ("B", "up"))
    },
    "adapter": {f"adapter_list.i.{upstream}": f"mlp.adapter.{native}" for upstream, native in BOTTLENECK.items()},
    "adaptformer": {
        **{f"adaptformer_list.i.{upstream}": f"side.{native}" for upstream, native in BOTTLENECK.items()},
        "adaptformer_list.i.scale": "side.scale",
    },
    "ssf": {
        f"ssf_{upstream.partition('_')[0]}_list.i.{upstream}.{kind}": f"{native}.{kind}"
        for native, upstream in LAYERS.items()
        for kind in ("scale", "shift")
    },
    "ssf_ln": {f"ssf_ln_list.i.ln_{n}.{kind}": f"norm{n}.{kind}" for n in "12" for kind in ("scale", "shift")},
    "aft": {
        f"masked_linear_list.i.{upstream}.optimized_{kind}": f"{native}.{kind}.values"
        for native, upstream in LAYERS.items()
        for kind in KINDS
    },
}
# numbered through all blocks of the method: these of each block
BIASES = ("attn.qkv.bias", "attn.proj.bias", "norm1.bias", "mlp.fc1.bias", "mlp.fc2.bias", "norm2.bias")
NORMS = ("norm1", "norm2")
# `block_tuned` has timm's names, which are the native ones, in a timm tower
TIMM_BLOCK: tuple[Rename, ...] = (("block_tuned.", "block_tuned.", tuple((timm, clip) for clip, timm in CLIP_BLOCK)),)
LISTS = re.compile(r"\w+_list\.\d+(\.|$)|(block|bias|ln)_tuned\.\d+(\.|$)|ssf_attn\.")  # the beginning of LIFT's names
# methods with other trainable tensors in LIFT than in LIFT+, and the names of these
OTHER_IN_LIFT_PLUS = {"aft": "masked_linear_list.", "fft": "full_list.", "bitfit": "bias_list."}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def convert_upstream(
    model: nn.Module, content: dict[str, dict[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of `model` and of a checkpoint of LIFT or LIFT+, under the same names, for a strict copy.

    content: {"tuner": tensors}, of LIFT with "head": tensors. Raises ModelError.
    """
    tuner = content["tuner"]
    if "head" in content or any(LISTS.match(name) for name in tuner):
        return convert_lift_checkpoint(model, tuner, content.get("head", {}))
    tensors = convert_lift_plus_checkpoint(model, tuner)  # first, as it may replace parameters
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}, tensors


def convert_lift_checkpoint(
    model: nn.Module, tuner: dict[str, Tensor], head: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The trainable tensors of `model` and the tensors of a file of LIFT, both under LIFT's names and in its shapes.

    The first are views of the model's tensors. Those without a name in LIFT have their native names, so a strict copy
    reports them as missing. Raises ModelError for entries or statistics that the file was not made with.
    """
    tower = cast(Tower, model.get_submodule("tower"))
    for method, prefix in OTHER_IN_LIFT_PLUS.items():
        name = next((name for name in tuner if name.startswith(prefix)), None)
        if name and method in tower.attached and tower.variant != "lift":
            message = (
                f"the LIFT checkpoint contains {name}, and LIFT trains other tensors of v.{method} than LIFT+ does; "
                "test it in LIFT's form (-d DATA -m MODEL), or add variant lift"
            )
            raise ModelError(message, kind="other_variant", key="variant")
    tensors = _with_clip_names(tuner) | {f"head.{name}": tensor for name, tensor in head.items()}
    native: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    targets: dict[str, Tensor] = {}
    upstream_names: dict[str, list[str]] = {}  # of each native name
    for upstream, name in _names_in_tower(tower, tensors):
        targets[upstream] = _upstream_view(upstream, native[name].detach())
        upstream_names.setdefault(name, []).append(upstream)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in upstream_names:
            targets[name] = parameter
    for same in upstream_names.values():  # one tensor under the names of two methods, such as full and bias tuning
        found = [tensors[upstream] for upstream in same if upstream in tensors]
        if any(not torch.equal(found[0], other) for other in found[1:]):
            message = f"the LIFT checkpoint contradicts itself: {' and '.join(same)} are one tensor, but differ"
            raise ModelError(message, kind="contradiction")
    return targets, tensors


def _upstream_view(upstream: str, tensor: Tensor) -> Tensor:
    """A view of a native tensor in LIFT's shape: low-rank matrices multiply from the right, a scalar is [1]."""
    if ".lora_" in upstream:
        return tensor.T
    return tensor.view(1) if upstream.endswith(".scale") and tensor.ndim == 0 else tensor


def _with_clip_names(tuner: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors, with CLIP's names for those of a timm tower's blocks."""
    renamed = {name: rename(name, TIMM_BLOCK) for name in tuner}
    return {name if renamed[name] in tuner else renamed[name]: tensor for name, tensor in tuner.items()}


def _names_in_tower(tower: Tower, tensors: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """(upstream name, native name) of the trainable tensors; of a ResNet, in the form of the file."""
    if tower.kind == "resnet":
        return _names_in_resnet(cast(ResNet, tower), tensors)
    return _names_in_blocks(tower)


def _names_in_blocks(tower: Tower) -> Iterator[tuple[str, str]]:
    """(upstream name, native name) of the trainable tensors of the blocks."""
    blocks = tower.blocks
    for method, layers in tower.attached.items():
        for i, layer in enumerate(layers):
            block = blocks[layer]
            native = {name.replace(".wrapped", ""): name for name, _ in block.named_parameters()}
            for upstream, name in _names_in_block(method, i):
                if name in native:  # ssf and aft may be in some of the Linears only
                    yield upstream, f"tower.blocks.{layer}.{native[name]}"


def _names_in_block(method: str, i: int) -> Iterator[tuple[str, str]]:
    if method == "bitfit":
        yield from ((f"bias_tuned.{len(BIASES) * i + n}", name) for n, name in enumerate(BIASES))
    elif method == "ln_tuning":
        for n, norm in enumerate(NORMS):
            yield from ((f"ln_tuned.{len(NORMS) * i + n}.{kind}", f"{norm}.{kind}") for kind in KINDS)
    else:
        names = BLOCK_NAMES.get(method, {})  # LIFT's own lora_mlp never ran, so it has no names
        yield from ((upstream.replace(".i.", f".{i}."), name) for upstream, name in names.items())


def _names_in_resnet(tower: ResNet, tensors: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """(upstream name, native name) of a ResNet's trainable tensors; the file decides between two forms of `bn_list`."""
    names = parameter_order(tower)
    if "fft" in tower.attached:
        yield from ((f"full_list.{n}", f"tower.{name}") for n, name in enumerate(names))
    if "bitfit" in tower.attached:
        biases = [name for name in names if name.endswith("bias")]
        yield from ((f"bias_list.{n}", f"tower.{name}") for n, name in enumerate(biases))
    if "bn_tuning" in tower.attached:
        norms = {name for name, module in tower.named_modules() if isinstance(module, nn.BatchNorm2d)}
        affine = [name for name in names if name.rpartition(".")[0] in norms]  # weight and bias of each, alternating
        whole = any(re.match(r"bn_list\.\d+\.", name) for name in tensors)
        for n, name in enumerate(affine):
            norm, _, kind = name.rpartition(".")
            yield f"bn_list.{n // 2}.{kind}" if whole else f"bn_list.{n}", f"tower.{name}"
            if whole and kind == "weight":
                yield from ((f"bn_list.{n // 2}.{statistic}", f"tower.{norm}.{statistic}") for statistic in STATISTICS)
    if "ssf" in tower.attached:
        yield from ((f"ssf_attn.{kind}", f"tower.after.{kind}") for kind in ("scale", "shift"))


def parameter_order(tower: ResNet) -> list[str]:
    """Native names of a ResNet's parameters in the order of the published module, OpenAI's or timm's."""
    names = [f"net.{name}" for name, _ in tower.net.named_parameters()]
    published = {name: published_name(name) for name in names}
    if not any(name.startswith("attnpool.") for name in published.values()):
        return names
    return sorted(names, key=lambda name: _position(published[name]))


def _position(name: str) -> tuple:
    """A key that sorts the names of OpenAI's ModifiedResNet: stem, layer1 to layer4, attention pool."""
    *modules, kind = name.split(".")
    positions = {"positional_embedding": 0, "k_proj": 1, "q_proj": 2, "v_proj": 3, "c_proj": 4}
    if modules[0] == "attnpool":
        return (5, positions[modules[1] if len(modules) > 1 else kind], kind != "weight")
    layer, block = (int(modules.pop(0)[-1]), int(modules.pop(0))) if modules[0].startswith("layer") else (0, 0)
    if modules[0] == "downsample":
        return (layer, block, 4, int(modules[1]), kind != "weight")
    return (layer, block, int(modules[0][-1]), modules[0].startswith("bn"), kind != "weight")
