"""From the sizes of a file's tensors and its description to the config of a backbone."""

import dataclasses
from pathlib import Path
from typing import Any

from models.backbones import FAMILIES
from models.backbones.backbone import BackboneConfig
from models.backbones.resnet import ResNetConfig
from models.backbones.text import HEAD_DIM, TextConfig
from models.backbones.vit import ViTConfig
from models.weights.descriptions import Description
from models.weights.sizes import Sizes, sizes_of
from utils.errors import ModelError


def require_family(
    name: str, config: BackboneConfig | None, found: Sizes, path: Path, is_described: bool = False
) -> None:
    """Raises ModelError unless a file of these sizes fits the backbone's name.

    config: that of the name. is_described: whether the file has its own description.
    """
    family = config.family if config else FAMILIES.get(name)
    if family is None:  # a name that only the hub describes; the file has its own description
        return
    clip, resnet = "joint" in found, "stages" in found
    kind = "ResNet" if resnet else "ViT"
    found_family = f"CLIP {kind}" if clip else f"{kind} without a text tower"
    if found_family != family:
        message = f"{name} is a {family}, but {path} contains a {found_family}; choose the backbone that fits the file"
        raise ModelError(message, kind="wrong_family", path=path)
    differing = _differing(found, config)
    if is_described:
        differing.pop("resolution", None)
    if differing:
        words = ", ".join(f"{key} {size} (not {wanted})" for key, (size, wanted) in differing.items())
        other = next(key for key, value in FAMILIES.items() if value == family)
        message = f"{path} does not contain a {name}: it has {words}; -b {other} accepts any size"
        raise ModelError(message, kind="wrong_size", path=path)


def _differing(found: Sizes, config: BackboneConfig | None) -> dict[str, tuple[Any, Any]]:
    """{size: (in the tensors, in the config)} where they differ; the resolution counts if only it identifies them."""
    wanted = sizes_of(config) if config else {}
    if config and not config.image.is_known_by_resolution:
        wanted.pop("resolution", None)
    return {key: (found[key], size) for key, size in wanted.items() if key in found and found[key] != size}


def complete(sizes: Sizes, known: Description, named: BackboneConfig | None, path: Path) -> BackboneConfig:
    """The config of tensors of these sizes. Raises ModelError if it is not described, or the description differs."""
    if known.config:
        for key, (found, size) in _differing(sizes, known.config).items():
            message = (
                f"{known.source} describes another model than {path}: {key} {size}, found {found}; correct or remove it"
            )
            raise ModelError(message, kind="description_mismatch", path=path, key=key)
    base = known.config or _plain_config(sizes, path)
    heads = known.heads or base.image.heads or (named.image.heads if named else None)
    activation = known.activation or base.activation
    is_vit = base.image.kind == "ViT"

    # ---- properties that are still unknown ----
    lacking = {"activation": not activation and (is_vit or base.text is not None), "heads": is_vit and not heads}
    lacking |= {key: not getattr(known, key) for key in ("mean", "std")}
    unknown = [key for key, lacks in lacking.items() if lacks]
    if unknown:
        raise ModelError(_how_to_describe(path, unknown, base), kind="undetermined", path=path, key=unknown[0])

    # ---- the towers with these properties ----
    image, text = base.image, base.text
    if heads:
        _require_divisor("heads", heads, image.dim, path)
        image = image.with_choices(known.activation or image.activation, heads)
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
    # any number if there are no positions: the strict load reports them as missing
    resolution = sizes["resolution"] if "resolution" in sizes else sizes["patch"]
    image = ViTConfig(sizes["dim"], sizes["depth"], sizes["patch"], resolution, hidden=sizes["hidden"], **form)
    return BackboneConfig(image, text, sizes.get("joint", 0), image_projection=clip)


def _require_divisor(key: str, count: int, width: int, path: Path) -> None:
    if width % count:
        message = f"{key} {count} does not divide the width {width} of the tower in {path}; choose a divisor"
        raise ModelError(message, kind="indivisible_heads", path=path, key=key)


def _how_to_describe(path: Path, unknown: list[str], config: BackboneConfig) -> str:
    """The message for properties that the tensors of a file do not determine: their names, and how to set them."""
    json = "open_clip_config.json" if config.text else "config.json (timm's)"
    dim = config.image.dim
    gelu, quick_gelu = "most of timm's", "CLIP towers named quickgelu"
    if config.text:
        gelu, quick_gelu = "LAION, DataComp, BioCLIP", "OpenAI, MetaCLIP, most of DFN"
    keys = {
        "activation": f"activation gelu ({gelu}) or quick_gelu ({quick_gelu})",
        "heads": f"heads N (width {dim}: {dim // HEAD_DIM} if they are {HEAD_DIM} wide)",
        "mean": "mean clip, imagenet, half or [R,G,B]",
        "std": "std likewise" if "mean" not in unknown else "",
    }
    add = ", ".join(keys[key] for key in unknown if keys[key])
    return (
        f"the tensors in {path} do not determine {', '.join(unknown)}, and the features depend on it; "
        f"put its {json} beside it, or add {add}"
    )
