"""The sizes of a backbone, which its tensors determine: read from tensors or from a config, to compare them.

Sizes are a flat dict: dim, depth, patch, resolution, ..., and of a CLIP joint, text_dim, text_depth, context, ... The
width of an MLP, `hidden`, is None if it is four times that of the tower.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from models.backbones.backbone import BackboneConfig
from models.backbones.families import timm_resnet
from models.backbones.resnet import CHANNEL_MULTIPLE, STRIDE
from utils.errors import ModelError

Sizes = dict[str, Any]
MOST_BLOCKS, MOST_CHANNELS = 1000, 2**20  # and pixels; the largest published ones have 64 and 6144


def sizes_of(config: BackboneConfig) -> Sizes:
    """The sizes of a config. The resolution is left out where no tensor depends on it."""
    sizes = dict(config.image.sizes)
    if config.text is not None:
        text = config.text
        sizes |= {"joint": config.joint, "text_dim": text.dim, "text_depth": text.depth, "context": text.context}
        sizes |= {"vocabulary": text.vocabulary, "text_hidden": text.hidden}
    return sizes


# ---- from tensors ----


def read_sizes(state: dict[str, Tensor], path: Path | str = "the file") -> Sizes:
    """The sizes of a backbone, read from its tensors under native names. Raises ModelError."""
    clip, resnet = (any(name.startswith(prefix) for name in state) for prefix in ("text.", "image.net."))
    try:
        sizes = (_clip_resnet if clip else _resnet)(state) if resnet else _vit(state)
        sizes |= _clip(state, sizes["dim"] if resnet else None) if clip else {}
    except KeyError as error:
        message = f"{path} is not a complete weight file: it lacks {error}"
        raise ModelError(message, kind="missing_tensors", path=path) from error
    except (ValueError, IndexError, TypeError) as error:
        raise ModelError(f"{path} has a tensor of the wrong shape: {error}", kind="wrong_shapes", path=path) from error
    if clip and resnet and sizes["width"] % CHANNEL_MULTIPLE:
        message = (
            f"{path}: the first stage is {sizes['width']} channels wide, which is not a multiple of {CHANNEL_MULTIPLE}"
        )
        raise ModelError(message, kind="unsupported_width", path=path)
    _require_possible(sizes, path)
    return sizes


def _require_possible(sizes: Sizes, path: Path | str) -> None:
    """Raises ModelError for impossible sizes, which a damaged file may have, before a backbone is built."""
    for key, size in sizes.items():
        most = MOST_BLOCKS if "depth" in key or key == "stages" else MOST_CHANNELS
        least = 0 if key == "registers" else 1
        for number in size if isinstance(size, tuple) else (size,):
            if number is not None and not least <= number <= most:
                message = f"{path} has tensors of an impossible size: {key} {number}, where 1 to {most} are possible"
                raise ModelError(f"{message}; copy or download it again", kind="impossible_size", path=path, key=key)


def _clip(state: dict[str, Tensor], joint: int | None) -> Sizes:
    """The sizes of the text tower, and of the joint space if that is not known."""
    context, text_dim = state["text.positional_embedding"].shape
    if joint is None:
        joint = state["image_projection" if "image_projection" in state else "text_projection"].shape[1]
    sizes: Sizes = {"joint": joint, "text_dim": text_dim, "text_depth": _count(state, "text.blocks.")}
    sizes |= {"context": context, "text_hidden": _hidden(state, "text.", text_dim)}
    embedding = state.get("text.token_embedding.weight")
    return sizes if embedding is None else sizes | {"vocabulary": len(embedding)}


def _hidden(state: dict[str, Tensor], tower: str, dim: int) -> int | None:
    """The width of the MLP; None for four times `dim`."""
    weight = state.get(f"{tower}blocks.0.mlp.fc2.weight")
    hidden = None if weight is None or weight.ndim < 2 else weight.shape[1]
    return None if hidden == 4 * dim else hidden


def _vit(state: dict[str, Tensor]) -> Sizes:
    dim, _, patch, _ = state["image.patch_embed.weight"].shape
    registers = len(state["image.registers"]) if "image.registers" in state else 0
    sizes: Sizes = {"dim": dim, "depth": _count(state, "image.blocks."), "patch": patch, "registers": registers}
    sizes["hidden"] = _hidden(state, "image.", dim)
    if "image.positional_embedding" in state:
        count = len(state["image.positional_embedding"])
        num_first = registers + ("image.class_token" in state)
        sizes["resolution"] = patch * grid_side(count, num_first)
    return sizes


def grid_side(count: int, num_first: int) -> int:
    """The side of the grid of patches of `count` learnt positions, which include the first tokens' or not.

    Registers' positions are rare, so a count that is a square is one of patches alone.
    """
    return round((count if _is_square(count) else max(count - num_first, 0)) ** 0.5)


def _is_square(count: int) -> bool:
    return round(count**0.5) ** 2 == count


def _clip_resnet(state: dict[str, Tensor]) -> Sizes:
    stages = tuple(_count(state, f"image.net.stages.{i}.") for i in (0, 1, 2, 3))
    width = len(state["image.net.stages.0.0.conv1_1x1.conv.weight"])
    dim = len(state["image.net.head.proj.weight"])
    side = (len(state["image.net.head.pos_embed"]) - 1) ** 0.5
    return {"dim": dim, "depth": sum(stages), "stages": stages, "width": width, "resolution": round(side) * STRIDE}


def _resnet(state: dict[str, Tensor]) -> Sizes:
    stages = tuple(_count(state, f"image.net.layer{i}.") for i in (1, 2, 3, 4))
    width = len(state["image.net.layer1.0.conv1.weight"])
    sizes = {"dim": 32 * width, "depth": sum(stages), "stages": stages, "width": width}
    return sizes | {"resolution": timm_resnet.RESOLUTION}


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """The number of blocks `prefix`0, `prefix`1, ... Raises KeyError for none."""
    numbers = [name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)]
    blocks = {int(number) for number in numbers if number.isdecimal() and len(number) < 9}
    missing = next(number for number in range(len(blocks) + 1) if number not in blocks)
    if missing < len(blocks) or not blocks:
        raise KeyError(f"{prefix}{missing}")
    return len(blocks)
