"""Converts the tensors of a block where an architecture divides them differently: exact in real arithmetic.

LayerScale (Touvron et al. 2021) multiplies the outputs of attention and MLP by a vector: the rows of `proj` and `fc2`
are multiplied by it. Separate queries, keys and values become `qkv`, a separate gate and value `fc1`. Biases that a
model lacks, such as that of the keys, become zeros. docs/backbones.md has the consequences for the methods.
"""

import re
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import ModelError

BLOCK = re.compile(r"(image|text)\.blocks\.\d+\.")
LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def fold(state: dict[str, Tensor], path: Path | str = "the file") -> dict[str, Tensor]:
    """The tensors under native names, [out, in] weights and [out] biases. Raises ModelError for shapes that do not fit.

    state: native names for all but the tensors that are folded here.
    """
    state = dict(state)
    try:
        for prefix in sorted({match[0] for name in state if (match := BLOCK.match(name))}):
            _join(state, prefix + "attn.qkv", [prefix + f"attn.{part}_proj" for part in "qkv"])
            _join(state, prefix + "mlp.fc1", [prefix + "mlp.fc1_g", prefix + "mlp.fc1_x"])
            _set_bias_of_qkv(state, prefix + "attn.")
            _scale(state, prefix + "attn.proj", prefix + "ls1.gamma")
            _scale(state, prefix + "mlp.fc2", prefix + "ls2.gamma")
        _add_absent_biases(state)
        _split_projections(state)
        _split_pooling(state)
        _merge_first_positions(state)
    except (RuntimeError, IndexError, ValueError) as error:
        reason = str(error).splitlines()[0]
        message = f"{path} has tensors whose shapes do not fit together ({reason}); copy or download it again"
        raise ModelError(message, kind="wrong_shapes", path=path) from error
    return state


def unfold(state: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The tensors, with these names, that `fold` converts to `state`: its inverse, with LayerScales of one.

    A name without values in `state` is left out. Values without a name in `names` are lost: callers compare.
    """
    parts = dict(state)
    for prefix in {match[0] for name in names if (match := BLOCK.match(name))}:
        for kind in ("weight", "bias"):
            _split(parts, f"{prefix}attn.qkv.{kind}", [f"{prefix}attn.{part}_proj.{kind}" for part in "qkv"])
            _split(parts, f"{prefix}mlp.fc1.{kind}", [f"{prefix}mlp.fc1_{part}.{kind}" for part in "gx"])
        _split(parts, f"{prefix}attn.qkv.bias", [f"{prefix}attn.{part}_bias" for part in "qkv"])
        for number, linear in ((1, "attn.proj"), (2, "mlp.fc2")):
            parts[f"{prefix}ls{number}.gamma"] = torch.ones(len(state[f"{prefix}{linear}.weight"]))
    for projection in ("image_projection", "text_projection"):
        if projection in state:
            parts[f"{projection}.weight"] = state[projection].t().contiguous()
        if f"{projection}_bias" in state:
            parts[f"{projection}.bias"] = state[f"{projection}_bias"]
    return {name: parts[name] for name in names if name in parts}


def _split(state: dict[str, Tensor], joined: str, parts: list[str]) -> None:
    """Adds the equal chunks of a tensor, if it exists."""
    if joined in state:
        state |= dict(zip(parts, state[joined].chunk(len(parts)), strict=True))


def _join(state: dict[str, Tensor], joined: str, parts: list[str]) -> None:
    """Stacks those of `parts` that exist, Linears of the same input; a bias that one of them lacks is zero."""
    parts = [part for part in parts if f"{part}.weight" in state]
    if not parts:
        return
    weights = [state.pop(f"{part}.weight") for part in parts]
    biases = [state.pop(f"{part}.bias", None) for part in parts]
    state[f"{joined}.weight"] = torch.cat(weights)
    if any(bias is not None for bias in biases):
        pairs = zip(weights, biases, strict=True)
        state[f"{joined}.bias"] = torch.cat([w.new_zeros(len(w)) if b is None else b for w, b in pairs])


def _set_bias_of_qkv(state: dict[str, Tensor], prefix: str) -> None:
    """Applies q_bias and v_bias (EVA, BEiT), and the mask of DINOv3's own bias, which is zero for the keys."""
    if f"{prefix}q_bias" in state and f"{prefix}v_bias" in state:
        q, v = state.pop(f"{prefix}q_bias"), state.pop(f"{prefix}v_bias")
        state[f"{prefix}qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
    if state.pop(f"{prefix}qkv.bias_mask", None) is not None:
        bias = state[f"{prefix}qkv.bias"].clone()
        third = len(bias) // 3
        bias[third : 2 * third] = 0
        state[f"{prefix}qkv.bias"] = bias


def _scale(state: dict[str, Tensor], linear: str, gamma: str) -> None:
    """Multiplies the outputs of a Linear."""
    weight = state.get(f"{linear}.weight")
    if gamma not in state or weight is None or not weight.is_floating_point():  # quantised ones are refused later
        return
    scale = state.pop(gamma).float()
    state[f"{linear}.weight"] = weight.float() * scale[:, None]
    if f"{linear}.bias" in state:
        state[f"{linear}.bias"] = state[f"{linear}.bias"].float() * scale


def _add_absent_biases(state: dict[str, Tensor]) -> None:
    """Zeros for the biases that no block of a tower has. One that a single block lacks is missing."""
    for tower in ("image", "text"):
        for linear in LINEARS:
            weight = re.compile(rf"{tower}\.blocks\.\d+\.{re.escape(linear)}\.weight")
            biases = {name: name.removesuffix("weight") + "bias" for name in state if weight.fullmatch(name)}
            if not any(bias in state for bias in biases.values()):
                state.update({bias: state[name].new_zeros(len(state[name])) for name, bias in biases.items()})


def _split_projections(state: dict[str, Tensor]) -> None:
    """Turns projections that are Linears, [out, in] with a bias, into native matrices [in, out]."""
    for projection in ("image_projection", "text_projection"):
        if f"{projection}.weight" in state:
            state[projection] = state.pop(f"{projection}.weight").t().contiguous()
        if f"{projection}.bias" in state:
            state[f"{projection}_bias"] = state.pop(f"{projection}.bias")


def _split_pooling(state: dict[str, Tensor]) -> None:
    """Splits PE's own attention pooling: queries, keys and values are stacked, the projection has no bias."""
    if "image.pooling.qkv.weight" not in state:
        return
    for kind in ("weight", "bias"):
        q, k, v = state.pop(f"image.pooling.qkv.{kind}").chunk(3)
        state |= {f"image.pooling.q.{kind}": q, f"image.pooling.kv.{kind}": torch.cat([k, v])}
    projection = state.get("image_projection")
    if projection is not None:
        state.setdefault("image_projection_bias", projection.new_zeros(projection.shape[1]))


def _merge_first_positions(state: dict[str, Tensor]) -> None:
    """Adds the class token's position, which DINOv2's own files with registers have, to the token, as timm does."""
    if "image.register_tokens" in state:
        state["image.registers"] = state.pop("image.register_tokens")
        positions = state["image.positional_embedding"]
        state["image.class_token"] = state["image.class_token"] + positions[0]
        state["image.positional_embedding"] = positions[1:]
