"""Loads the weights of the backbones, strictly: sizes are read from the tensors, and every tensor must fit."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.backbones import BACKBONES, FAMILIES
from models.backbones.backbone import Backbone, BackboneConfig
from models.backbones.families.clip import HEAD_DIM
from models.backbones.resnet import ResNetConfig
from models.backbones.text import TextConfig
from models.backbones.vit import ViTConfig, resample_positions
from models.weights.checksums import listed as listed_sum
from models.weights.descriptions import OPENAI_SHA256, Description, beside, describe
from models.weights.find import ASSETS, SCHEMES, find_weights
from models.weights.naming import convert_state_dict
from models.weights.read import read_section
from models.weights.sizes import Sizes, grid_side, read_sizes, sizes_of
from utils.errors import ModelError
from utils.text import listed, shortened


class Weights(NamedTuple):
    """The file that a backbone was loaded from."""

    path: Path
    name: str  # its address, or the file's name
    sha256: str
    published: bool  # whether these are the weights that are published under the backbone's name
    notes: tuple[str, ...] = ()  # for the log


def load_backbone(
    name: str, weights: str | None = None, given: Description | None = None, resolution: int | None = None
) -> tuple[Backbone, Weights]:
    """The backbone `name` with its published weights, or those of `weights`, in float32; and the file.

    name: of BACKBONES or FAMILIES, or an address (timm:MODEL.TAG, open_clip:MODEL/TAG, hf-hub:OWNER/NAME). weights: a
    local file, or another address. The sizes are read from the tensors, and have to be those of `name`, unless that is
    one of FAMILIES. given: goes before other descriptions of the weights, see models/weights/descriptions.py.
    resolution: of the images, pixels; learnt positions are resampled for it. None = the weights' own, or 224 where
    that is DINOv2's 518. Raises ModelError.
    """
    if name in FAMILIES and not weights:
        message = f"{name} takes files of any size; give one: weights FILE, or timm:MODEL.TAG, open_clip:MODEL/TAG"
        raise ModelError(message, kind="weights_required", key="weights")
    of_name = None if name in FAMILIES else _describe_name(name)
    address = weights or (BACKBONES[name].address if name in BACKBONES else name)
    known = describe(address) if weights else of_name  # before a download, which may be unnecessary

    # the tensors, and the architecture that they and the descriptions determine
    file = find_weights(address)
    path, digest = file.path, file.sha256
    content = read_section(path)
    state = convert_state_dict(content.tensors, path)
    sizes = read_sizes(state, path)
    _require_family(name, of_name, state, sizes, path)
    published = _published_address(address, path, digest)
    known = known or describe(published) or beside(path)
    if of_name and of_name.config and _is_unmistakable(of_name.config):
        known = known.or_else(of_name)
    known = (given or Description()).or_else(known)
    config = _complete(sizes, known, of_name, path)
    resolution = resolution or known.resolution or config.image.resolution

    # the module, which every tensor must fit
    own = config.image.resolution
    config = dataclasses.replace(config, image=dataclasses.replace(config.image, resolution=resolution))
    if resolution != own:
        _resample(state, config)
    with torch.device("meta"):
        backbone = Backbone(config)
    wanted = backbone.state_dict()
    # BatchNorm's counts of training steps: not used with fixed statistics, and not in every file
    counts = {key for key in wanted if key.endswith(".num_batches_tracked")}
    _check(state, {key: value for key, value in wanted.items() if key not in counts}, path, name)
    _require_floats(state, path)
    state = {key: value.float() for key, value in state.items()}
    _require_finite(state, path)
    backbone.load_state_dict(state | {key: torch.tensor(0) for key in counts}, assign=True)
    backbone.mean, backbone.std = known.mean, known.std

    # the record of their origin
    scheme = address.partition(":")[0]
    shown = address if scheme in SCHEMES and scheme != "asset" else path.name
    is_own = not weights or (name in BACKBONES and published == BACKBONES[name].address)
    notes = list(file.notes)
    if content.others or content.section not in ("", "state_dict"):
        notes.append(f"{shown}: the tensors under {content.section} are read" + _not_read(content.others))
    if not (is_own and name in BACKBONES):
        notes.append(f"{shown}: {_in_words(config, known)}")
    if resolution != own:
        notes.append(f"{shown}: made for images of {own} pixels, used at {resolution}")
    if file.record and (note := file.record.write(digest)):
        notes.append(note)
    return backbone, Weights(path, shown, digest, is_own, tuple(notes))


def _describe_name(name: str) -> Description:
    """The description of a backbone by its name or address, without its weights."""
    return describe(BACKBONES[name].address if name in BACKBONES else name) or Description()


def _not_read(others: tuple[str, ...]) -> str:
    return f", those under {' and '.join(others)} are not" if others else ""


def _in_words(config: BackboneConfig, known: Description) -> str:
    """The properties that the tensors do not determine, for the log."""
    words = [f"activation {config.activation}"] if config.activation else []
    words += [f"{config.image.heads} heads"] if config.image.heads else []
    pairs = (("mean", known.mean), ("std", known.std))
    words += [f"{key} " + " ".join(f"{x:.4g}" for x in values) for key, values in pairs if values]
    words += [f"licence {known.licence}"] if known.licence else []
    return ", ".join(words)


def _require_family(name: str, of_name: Description | None, state: dict[str, Tensor], found: Sizes, path: Path) -> None:
    """Raises ModelError unless a file of these sizes fits the backbone's name."""
    config = of_name.config if of_name else None
    family = config.family if config else FAMILIES[name]
    clip, resnet = "joint" in found, "stages" in found
    kind = "ResNet" if resnet else "ViT"
    found_family = f"CLIP {kind}" if clip else f"{kind} without a text tower"
    if found_family != family:
        message = f"{name} is a {family}, but {path} contains a {found_family}; choose the backbone that fits the file"
        raise ModelError(message, kind="wrong_family", path=path)
    differing = _differing(found, config)
    if differing:
        words = ", ".join(f"{key} {size} (not {wanted})" for key, (size, wanted) in differing.items())
        other = next(key for key, value in FAMILIES.items() if value == family)
        message = f"{path} does not contain a {name}: it has {words}; -b {other} takes any size"
        raise ModelError(message, kind="wrong_size", path=path)


def _differing(found: Sizes, config: BackboneConfig | None) -> dict[str, tuple[Any, Any]]:
    """{size: (in the tensors, in the config)} where they differ."""
    wanted = sizes_of(config) if config else {}
    return {key: (found[key], size) for key, size in wanted.items() if key in found and found[key] != size}


def _published_address(address: str, path: Path, digest: str) -> str:
    """The address under which a file is published: its own, or that of an equal file; "" where it is not known."""
    if path.resolve().parent == ASSETS and listed_sum(path) in ("", digest):
        return f"asset:{path.name}"
    return OPENAI_SHA256.get(digest, address if address.partition(":")[0] in SCHEMES else "")


def _is_unmistakable(config: BackboneConfig) -> bool:
    """Whether no other known architecture has the tensors of this one, so that its name describes any such file.

    CLIP's ViTs and the plain ones of timm exist with several activations, heads and normalisations.
    """
    image = config.image
    return image.kind == "ViT" and bool(image.registers or image.rotation or image.pooling.kind == "attention")


# ---- the config of a file ----


def _complete(sizes: Sizes, known: Description, of_name: Description | None, path: Path) -> BackboneConfig:
    """The config of tensors of these sizes. Raises ModelError where the description is another model's, or lacks it."""
    if known.config:
        for key, (found, size) in _differing(sizes, known.config).items():
            message = (
                f"{known.source} describes another model than {path}: {key} {size}, found {found}; correct or remove it"
            )
            raise ModelError(message, kind="description_mismatch", path=path, key=key)
    base = known.config or _plain_config(sizes, path)
    named = of_name.config if of_name else None
    heads = known.heads or base.image.heads or (named.image.heads if named else None)
    activation = known.activation or base.activation
    is_vit = base.image.kind == "ViT"

    # what is unknown
    lacking = {"activation": not activation and (is_vit or base.text is not None), "heads": is_vit and not heads}
    lacking |= {key: not getattr(known, key) for key in ("mean", "std")}
    unknown = [key for key, lacks in lacking.items() if lacks]
    if unknown:
        raise ModelError(_how_to_describe(path, unknown, base), kind="undetermined", path=path, key=unknown[0])

    # the towers with these
    image, text = base.image, base.text
    if is_vit:
        _require_divisor("heads", heads, image.dim, path)
        image = dataclasses.replace(image, heads=heads, activation=known.activation or image.activation)
    if text is not None:
        text_heads = known.text_heads or text.heads or max(text.dim // HEAD_DIM, 1)
        _require_divisor("text_heads", text_heads, text.dim, path)
        text = dataclasses.replace(text, heads=text_heads, activation=known.activation or text.activation)
    return dataclasses.replace(base, image=image, text=text)


def _plain_config(sizes: Sizes, path: Path) -> BackboneConfig:
    """OpenAI's CLIP, or timm's plain ViT or ResNet, of these sizes, without activation and heads. Raises ModelError."""
    clip = "joint" in sizes
    text = None
    if clip:
        text = TextConfig(sizes["text_dim"], sizes["text_depth"], sizes["context"], hidden=sizes["text_hidden"])
    if "stages" in sizes:
        image: Any = ResNetConfig(sizes["stages"], sizes["width"], sizes["resolution"], sizes.get("joint", 0))
        return BackboneConfig(image, text, sizes.get("joint", 0))
    if sizes["registers"]:
        message = (
            f"the tensors in {path} are those of a ViT with registers, and do not determine its positions and pooling; "
            "put its config.json (timm's) beside it, or choose -b timm:MODEL.TAG"
        )
        raise ModelError(message, kind="undetermined", path=path, key="backbone")
    form: dict[str, Any] = {"eps": 1e-5, "patch_bias": False, "norm_pre": True} if clip else {}
    resolution = sizes.get("resolution", sizes["patch"])  # without positions, which are then found missing
    image = ViTConfig(sizes["dim"], sizes["depth"], sizes["patch"], resolution, hidden=sizes["hidden"], **form)
    return BackboneConfig(image, text, sizes.get("joint", 0), image_projection=clip)


def _require_divisor(key: str, count: int, width: int, path: Path) -> None:
    if width % count:
        message = f"{key} {count} does not divide the width {width} of the tower in {path}; choose a divisor"
        raise ModelError(message, kind="indivisible_heads", path=path, key=key)


def _how_to_describe(path: Path, unknown: list[str], config: BackboneConfig) -> str:
    """The message for properties that the tensors of a file do not determine: their names, and how to give them."""
    json = "open_clip_config.json" if config.text else "config.json (timm's)"
    dim = config.image.dim
    keys = {
        "activation": "activation gelu (LAION, DataComp, BioCLIP) or quick_gelu (OpenAI, MetaCLIP, most of DFN)",
        "heads": f"heads N (width {dim}: {dim // HEAD_DIM} if they are {HEAD_DIM} wide)",
        "mean": "mean clip, imagenet, half or [R,G,B]",
        "std": "std likewise" if "mean" not in unknown else "",
    }
    add = ", ".join(keys[key] for key in unknown if keys[key])
    return (
        f"the tensors in {path} do not determine {', '.join(unknown)}, and the features depend on it; "
        f"put its {json} beside it, or add {add}"
    )


def _resample(state: dict[str, Tensor], config: BackboneConfig) -> None:
    """Resamples the learnt positions of the image tower for the grid of the config."""
    image = config.image
    name = {"ViT": "image.positional_embedding", "ResNet": "image.net.head.pos_embed"}[image.kind]
    if name in state and state[name].ndim == 2 and image.side:
        count, num_first = len(state[name]), image.num_first
        num_first = count - grid_side(count, num_first) ** 2
        state[name] = resample_positions(state[name], num_first, image.side)


# ---- the tensors ----


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
