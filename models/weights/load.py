"""Loads the weights of the backbones, strictly: sizes are read from the tensors, and every tensor must fit."""

import dataclasses
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from models.backbones import BACKBONES, FAMILIES
from models.backbones.backbone import Backbone, Geometry
from models.backbones.resnet import CHANNEL_MULTIPLE, STRIDE
from models.backbones.vit import HEAD_DIM
from models.weights.checksums import listed as listed_sum
from models.weights.descriptions import (
    CLIP_MEAN,
    CLIP_STD,
    OPENAI_SHA256,
    Description,
    beside,
    describe_open_clip,
    describe_timm,
)
from models.weights.find import ASSETS, SCHEMES, find_weights, open_clip_entry, timm_entry
from models.weights.naming import convert_state_dict
from models.weights.read import read_section
from utils.config.parsing import NORMALISATIONS
from utils.errors import ModelError
from utils.text import listed, shortened


class Weights(NamedTuple):
    """The file that a backbone was loaded from."""

    path: Path
    name: str  # its address, or the file's name
    sha256: str
    published: bool  # whether these are the weights that are published under the backbone's name
    notes: tuple[str, ...] = ()  # for the log


MOST_BLOCKS, MOST_CHANNELS = 1000, 2**20  # and pixels; the largest published ones have 64 and 6144
RESNET_RESOLUTION = 224  # not in the tensors, as a mean over the feature map takes any size


def load_backbone(name: str, weights: str | None = None, given: Description | None = None) -> tuple[Backbone, Weights]:
    """The backbone `name` with its published weights, or those of `weights`, in float32; and the file.

    `weights` is a local file, or the address of other published weights (timm:MODEL.TAG, open_clip:MODEL/TAG). The
    sizes are read from the tensors, and have to be those of `name`, unless that is one of FAMILIES. `given` takes
    precedence over other descriptions of the weights: see models/weights/descriptions.py. Raises ModelError.
    """
    if name in FAMILIES and not weights:
        message = f"{name} takes files of any size; give one: weights FILE, or timm:MODEL.TAG, open_clip:MODEL/TAG"
        raise ModelError(message, kind="weights_required", key="weights")
    address = weights or BACKBONES[name].address
    known = _describe_address(address)  # before a download, which may be unnecessary

    # the tensors, and the architecture that they and the descriptions determine
    file = find_weights(address)
    path, digest = file.path, file.sha256
    content = read_section(path)
    state = convert_state_dict(content.tensors, path)
    geometry = read_geometry(state, path)
    _require_size(name, geometry, path)
    published = _published_address(address, path, digest)
    known = known or _describe_address(published) or beside(path)
    geometry, mean, std = _complete(geometry, (given or Description()).or_else(known), path, name)

    # the module, which every tensor must fit
    with torch.device("meta"):
        backbone = Backbone(geometry)
    wanted = backbone.state_dict()
    # BatchNorm's counts of training steps: not used with fixed statistics, and not in every file
    counts = {key for key in wanted if key.endswith(".num_batches_tracked")}
    _check(state, {key: value for key, value in wanted.items() if key not in counts}, path, name)
    _require_floats(state, path)
    state = {key: value.float() for key, value in state.items()}
    _require_finite(state, path)
    backbone.load_state_dict(state | {key: torch.tensor(0) for key in counts}, assign=True)
    backbone.mean, backbone.std = mean, std

    # the record of their origin
    scheme = address.partition(":")[0]
    shown = address if scheme in SCHEMES and scheme != "asset" else path.name
    own = name in BACKBONES and published == BACKBONES[name].address
    notes = (*file.notes, *known.notes)
    if content.others or content.section not in ("", "state_dict"):
        notes += (f"{shown}: the tensors under {content.section} are read" + _not_read(content.others),)
    if not own:
        notes += (f"{shown}: {_in_words(geometry, mean, std)}",)
    if file.record and (note := file.record.write(digest)):
        notes += (note,)
    return backbone, Weights(path, shown, digest, own, notes)


def _not_read(others: tuple[str, ...]) -> str:
    return f", those under {' and '.join(others)} are not" if others else ""


def _in_words(geometry: Geometry, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """The properties that the tensors do not determine, for the log."""
    words = [f"activation {geometry.activation}"] if geometry.activation else []
    words += [f"{geometry.heads} heads"] if geometry.heads else []
    words += [f"{key} " + " ".join(f"{x:.4g}" for x in values) for key, values in (("mean", mean), ("std", std))]
    return ", ".join(words)


def _require_size(name: str, found: Geometry, path: Path) -> None:
    """Raises ModelError unless a file of these sizes fits the backbone's name."""
    family = FAMILIES[name] if name in FAMILIES else BACKBONES[name].geometry.family
    if found.family != family:
        message = f"{name} is a {family}, but {path} contains a {found.family}; choose the backbone that fits the file"
        raise ModelError(message, kind="wrong_family", path=path)
    wanted = found if name in FAMILIES else BACKBONES[name].geometry
    if found != wanted:
        sizes = dataclasses.asdict(wanted).items()
        differing = [f"{key} {getattr(found, key)} (not {size})" for key, size in sizes if getattr(found, key) != size]
        other = next(key for key, value in FAMILIES.items() if value == family)
        message = f"{path} does not contain a {name}: it has {', '.join(differing)}; -b {other} takes any size"
        raise ModelError(message, kind="wrong_size", path=path)


def _published_address(address: str, path: Path, digest: str) -> str:
    """The address under which a file is published: its own, or that of an equal file; "" where it is not known."""
    if path.resolve().parent == ASSETS and listed_sum(path) in ("", digest):
        return f"asset:{path.name}"
    return OPENAI_SHA256.get(digest, address if address.partition(":")[0] in SCHEMES else "")


def _describe_address(address: str) -> Description | None:
    """The description of published weights; None for a file. Raises ModelError for features that the towers lack."""
    kind, _, model = address.partition(":")
    source = next((source for source in BACKBONES.values() if source.address == address), None)
    if source is not None:
        mean, std = NORMALISATIONS[source.normalisation]
        usual = source.geometry.usual
        return Description(
            usual.activation, usual.heads, text_heads=usual.text_heads, mean=mean, std=std, source=address
        )
    if kind == "clip":
        # OpenAI's own CLIPs (Radford et al. 2021)
        return Description("quick_gelu", head_width=HEAD_DIM, mean=CLIP_MEAN, std=CLIP_STD, source=address)
    if kind == "timm":
        return describe_timm(model, timm_entry(model), address)
    if kind == "open_clip":
        config, published = open_clip_entry(model)
        quick = bool(config.get("quick_gelu") or published.get("quick_gelu"))
        return describe_open_clip(config | {"quick_gelu": quick}, published, address)
    return None


def _complete(
    geometry: Geometry, description: Description, path: Path, name: str
) -> tuple[Geometry, tuple[float, ...], tuple[float, ...]]:
    """The geometry with activation and heads, and mean and std of the images. Raises ModelError if one is unknown."""
    for key, size in description.sizes.items():
        if getattr(geometry, key) != size:
            message = (
                f"{description.source} describes another model than {path}: {key} {size}, found "
                f"{getattr(geometry, key)}; correct or remove it"
            )
            raise ModelError(message, kind="description_mismatch", path=path, key=key)
    usual, has_activation = geometry.usual, geometry.clip or not geometry.resnet
    has_heads = description.heads or description.head_width or name in BACKBONES or geometry.resnet
    lacking = {"activation": has_activation and not description.activation, "heads": not has_heads}
    lacking |= {key: not getattr(description, key) for key in ("mean", "std")}
    unknown = [key for key, lacks in lacking.items() if lacks]
    if unknown:
        raise ModelError(_how_to_describe(path, unknown, geometry), kind="undetermined", path=path, key=unknown[0])
    heads = description.heads or (description.head_width and max(geometry.dim // description.head_width, 1))
    heads = None if geometry.resnet else heads or usual.heads
    text_heads = (description.text_heads or usual.text_heads) if geometry.clip else None
    for key, count, width in (("heads", heads, geometry.dim), ("text_heads", text_heads, geometry.text_dim)):
        if count and width % count:
            message = f"{key} {count} does not divide the width {width} of the tower in {path}; choose a divisor"
            raise ModelError(message, kind="indivisible_heads", path=path, key=key)
    activation = description.activation if has_activation else None
    geometry = dataclasses.replace(geometry, activation=activation, heads=heads, text_heads=text_heads)
    return geometry, cast(tuple, description.mean), cast(tuple, description.std)


def _how_to_describe(path: Path, unknown: list[str], geometry: Geometry) -> str:
    """The message for properties that the tensors of a file do not determine: their names, and how to give them."""
    json = "open_clip_config.json" if geometry.clip else "config.json (timm's)"
    keys = {
        "activation": "activation gelu (LAION, DataComp, BioCLIP) or quick_gelu (OpenAI, MetaCLIP, most of DFN)",
        "heads": f"heads N (width {geometry.dim}: {geometry.dim // HEAD_DIM} if they are {HEAD_DIM} wide)",
        "mean": "mean clip, imagenet, half or [R,G,B]",
        "std": "std likewise" if "mean" not in unknown else "",
    }
    add = ", ".join(keys[key] for key in unknown if keys[key])
    return (
        f"the tensors in {path} do not determine {', '.join(unknown)}, and the features depend on it; "
        f"put its {json} beside it, or add {add}"
    )


def _check(state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path, name: str) -> None:
    """Raises ModelError, with the names of the tensors, unless `state` has exactly the names and shapes of `wanted`."""
    shapes = {key: (tuple(value.shape), tuple(state[key].shape)) for key, value in wanted.items() if key in state}
    wrong = [f"{key} {needed} {found}" for key, (needed, found) in shapes.items() if needed != found]
    for kind, problem, names in (
        ("missing_tensors", "lacks", sorted(wanted.keys() - state.keys())),
        ("unexpected_tensors", "has unexpected tensors:", sorted(state.keys() - wanted.keys())),
        ("wrong_shapes", "has wrong shapes (needed, found):", wrong),
    ):
        if names:
            message = f"{path} is not a complete weight file for {name}: it {problem} {listed(names)}"
            raise ModelError(message, kind=kind, path=path)


def _require_floats(state: dict[str, Tensor], path: Path) -> None:
    """Raises ModelError if a tensor has other numbers than floating-point ones, as those of quantised files."""
    for key, value in state.items():
        if not value.is_floating_point():
            message = (
                f"{path} has values of the type {str(value.dtype).removeprefix('torch.')} in {shortened(key)}, not "
                "floating-point weights; choose a file that is not quantised"
            )
            raise ModelError(message, kind="wrong_type", path=path)


def _require_finite(state: dict[str, Tensor], path: Path) -> None:
    """Raises ModelError if a tensor has a NaN or an infinite number. Causal masks, which have, are not among them."""
    for key, value in state.items():
        if value.numel() and not torch.isfinite(torch.stack(torch.aminmax(value))).all():
            count = int((~torch.isfinite(value)).sum())
            message = (
                f"{path} has {count} of {value.numel()} values of {shortened(key)} that are not finite numbers; "
                "convert or download it again"
            )
            raise ModelError(message, kind="not_finite", path=path)


# ---- sizes ----


def read_geometry(state: dict[str, Tensor], path: Path | str = "the file") -> Geometry:
    """The sizes of a backbone, read from its tensors in the native naming. Raises ModelError."""
    clip, resnet = (any(name.startswith(prefix) for name in state) for prefix in ("text.", "image.net."))
    try:
        sizes = (_clip_resnet if clip else _resnet)(state) if resnet else _vit(state)
        if clip:
            context, text_dim = state["text.positional_embedding"].shape
            joint = sizes["dim"] if resnet else state["image_projection"].shape[1]
            depth = _count(state, "text.blocks.")
            sizes |= {"joint": joint, "text_dim": text_dim, "text_depth": depth, "context": context}
    except KeyError as error:
        raise ModelError(
            f"{path} is not a complete weight file: it lacks {error}", kind="missing_tensors", path=path
        ) from error
    except (ValueError, IndexError, TypeError) as error:
        raise ModelError(f"{path} has a tensor of the wrong shape: {error}", kind="wrong_shapes", path=path) from error
    if clip and resnet and sizes["width"] % CHANNEL_MULTIPLE:
        message = (
            f"{path}: the first stage is {sizes['width']} channels wide, which is not a multiple of {CHANNEL_MULTIPLE}"
        )
        raise ModelError(message, kind="unsupported_width", path=path)
    _require_possible(sizes, path)
    return Geometry(**sizes)


def _require_possible(sizes: dict, path: Path | str) -> None:
    """Raises ModelError for sizes of no backbone, which a damaged file may have, before one is built."""
    for key, size in sizes.items():
        most = MOST_BLOCKS if "depth" in key or key == "stages" else MOST_CHANNELS
        for number in size if isinstance(size, tuple) else (size,):
            if not 0 < number <= most:
                message = f"{path} has tensors of an impossible size: {key} {number}, where 1 to {most} are possible"
                raise ModelError(f"{message}; copy or download it again", kind="impossible_size", path=path, key=key)


def _vit(state: dict[str, Tensor]) -> dict:
    dim, _, patch, _ = state["image.patch_embed.weight"].shape
    side = (len(state["image.positional_embedding"]) - 1) ** 0.5
    return {"dim": dim, "depth": _count(state, "image.blocks."), "patch": patch, "resolution": round(side) * patch}


def _clip_resnet(state: dict[str, Tensor]) -> dict:
    stages = tuple(_count(state, f"image.net.stages.{i}.") for i in (0, 1, 2, 3))
    width = len(state["image.net.stages.0.0.conv1_1x1.conv.weight"])
    dim = len(state["image.net.head.proj.weight"])
    side = (len(state["image.net.head.pos_embed"]) - 1) ** 0.5
    sizes = {"dim": dim, "depth": sum(stages), "patch": STRIDE, "resolution": round(side) * STRIDE}
    return sizes | {"stages": stages, "width": width}


def _resnet(state: dict[str, Tensor]) -> dict:
    stages = tuple(_count(state, f"image.net.layer{i}.") for i in (1, 2, 3, 4))
    width = len(state["image.net.layer1.0.conv1.weight"])
    sizes = {"dim": 32 * width, "depth": sum(stages), "patch": STRIDE, "resolution": RESNET_RESOLUTION}
    return sizes | {"stages": stages, "width": width}


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """The number of blocks `prefix`0, `prefix`1, ... Raises KeyError for none."""
    numbers = [name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)]
    blocks = {int(number) for number in numbers if number.isdecimal() and len(number) < 9}
    missing = next(number for number in range(len(blocks) + 1) if number not in blocks)
    if missing < len(blocks) or not blocks:
        raise KeyError(f"{prefix}{missing}")
    return len(blocks)
