"""Properties that the tensors of a weight file do not determine: activation, heads, pooling, normalisation, ...

Sources, in order of precedence: the user's keys, the registry of the library that publishes the weights, OpenAI's known
checksums, the JSON beside the file (open_clip's open_clip_config.json, timm's config.json). Nothing is assumed. A
description with a feature that the towers lack is an error that names the feature.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from models.backbones import BACKBONES, find_source
from models.backbones.backbone import BackboneConfig
from models.backbones.families import open_clip
from models.backbones.families.features import require
from models.backbones.families.timm_modules import RESNETS, TRANSFORMERS, build_module
from models.backbones.families.timm_resnet import resnet_config
from models.backbones.families.timm_vit import vit_config
from models.backbones.vit import DINOV2_RESOLUTION
from models.weights.find import (
    OPEN_CLIP_JSON,
    TIMM_JSON,
    find_description,
    open_clip_entry,
    openai_entry,
    timm_entry,
    without_tag,
)
from utils.config.parsing import NORMALISATIONS
from utils.errors import ModelError, amended
from utils.files import read_json, write_text
from utils.text import shortened

CLIP_MEAN, CLIP_STD = NORMALISATIONS["clip"]
UNREACHABLE = ("download_failed", "gated_repository", "no_access", "unknown_repository")  # kinds of errors of the hub
JSON_BYTES = 2**20  # of a description; real ones have a few thousand
LIFT_RESOLUTION = 224  # a step at DINOv2's own, 518, takes 7 times as long
OPENAI_SHA256 = {  # of OpenAI's own files, as in their addresses (open_clip.pretrained)
    "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762": "clip:RN50",
    "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599": "clip:RN101",
    "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd": "clip:RN50x4",
    "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa": "clip:RN50x16",
    "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c": "clip:RN50x64",
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "clip:ViT-B-32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "clip:ViT-B-16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "clip:ViT-L-14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "clip:ViT-L-14-336",
}


@dataclasses.dataclass(frozen=True)
class Description:
    """Properties of a weight file that are not in its tensors; None: unknown.

    config: the whole architecture. activation, heads, text_heads: those of the towers, in place of the config's.
    interpolation, resize: how images are resized. resolution: of the images, where it is not the config's.
    source: a file or an address, for messages.
    """

    activation: str | None = None  # a name of ACTIVATIONS
    heads: int | None = None  # of the image tower
    text_heads: int | None = None
    config: BackboneConfig | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    resize: str | None = None
    resolution: int | None = None
    upstream: dict[str, Any] | None = None  # content of the library's JSON: config.json or open_clip_config.json
    licence: str = ""
    remark: str = ""  # of the library on these weights, for the log
    source: str = ""

    def or_else(self, other: "Description") -> "Description":
        """This description, with the fields of `other` for its unknown ones."""
        found = {
            field.name: getattr(self, field.name) or getattr(other, field.name) for field in dataclasses.fields(self)
        }
        return Description(**found)


# ---- sources ----


def describe_backbone(name: str, weights: str | None = None) -> Description:
    """The description of a backbone, or of the weights that replace its own, without a download of weights.

    name: of BACKBONES, or an address; the description of any other name is empty. Raises ModelError.
    """
    return describe_both(name, weights)[0]


def describe_both(name: str, weights: str | None = None) -> tuple[Description, Description]:
    """`describe_backbone`, and the description of the name alone: an empty one if the hub cannot be reached.

    Raises ModelError.
    """
    of_weights = (describe(weights) or beside(Path(weights))) if weights else Description()
    of_weights = _with_class_token(of_weights, name)
    try:
        of_name = describe_name(name)
    except ModelError as error:
        if of_weights.config is None or error.kind not in UNREACHABLE:
            raise
        row = find_source(name)
        return dataclasses.replace(of_weights, licence=row.licence if row else of_weights.licence), Description()
    if not weights:
        return of_name, of_name
    if not (of_name.config and of_name.config.image.is_unmistakable):
        return of_weights, of_name
    # the name describes any file with such tensors; a config of the file's own has its resolution, too
    fallback = dataclasses.replace(of_name, resolution=None) if of_weights.config else of_name
    return of_weights.or_else(fallback), of_name


def describe_name(name: str) -> Description:
    """The description of a backbone by its name or address; an empty one for a family. Raises ModelError."""
    if name.startswith("timm:") and "." not in name:
        raise without_tag(name)
    row = find_source(name)
    known = describe(row.address if row else name) or Description()
    if row is None:
        return known
    return _with_class_token(dataclasses.replace(known, licence=row.licence or known.licence), name)


def licence_of(name: str) -> str:
    """The licence of a backbone's weights: of its row, or of its description; OpenAI's and LIFT+'s are MIT."""
    row = find_source(name)
    if row is None:
        return describe_name(name).licence
    library, _, model = row.address.partition(":")
    return row.licence or (timm_entry(model)["license"] if library == "timm" else "mit")


def _with_class_token(known: Description, name: str) -> Description:
    """The description, with the class token as feature if the row of the backbone's name sets it."""
    if known.config is None or name not in BACKBONES or not BACKBONES[name].class_token:
        return known
    config = dataclasses.replace(known.config, image=known.config.image.with_class_token())
    return dataclasses.replace(known, config=config)


def describe(address: str) -> Description | None:
    """The description of published weights, without a download of them; None for a file. Raises ModelError."""
    kind, _, model = address.partition(":")
    named = next((source for source in BACKBONES.values() if source.config and source.address == address), None)
    if named is not None:
        mean, std = NORMALISATIONS[str(named.normalisation)]
        return Description(config=named.config, mean=mean, std=std, source=address)
    if kind == "clip":  # OpenAI's own
        return describe_open_clip(openai_entry(model)[0] | {"quick_gelu": True}, {}, address)
    if kind == "timm":
        return describe_timm(model, timm_entry(model), address)
    if kind == "open_clip":
        config, published = open_clip_entry(model)
        quick = bool(config.get("quick_gelu") or published.get("quick_gelu"))
        return describe_open_clip(config | {"quick_gelu": quick}, published, address)
    if kind == "hf-hub":
        known = read(find_description(address), address)
        if known is None:
            message = f"{address} has a config.json that is not timm's; choose a repository of timm or open_clip"
            raise ModelError(message, kind="no_description", key="weights")
        return known
    return None


def beside(path: Path) -> Description:
    """The description in the folder of a weight file; an empty one where there is none. Raises ModelError."""
    for name in (OPEN_CLIP_JSON, TIMM_JSON):
        file = path.with_name(name)
        if file.is_file() and (found := read(file, str(file))) is not None:
            return found
    return Description()


def read(file: Path, source: str) -> Description | None:
    """The description in a JSON of open_clip's or timm's; None for a config.json of another library."""
    try:
        content = read_json(file, JSON_BYTES)
        with amended(path=file):
            if file.name == OPEN_CLIP_JSON:
                return describe_open_clip(content["model_cfg"], content.get("preprocess_cfg") or {}, source)
            if not isinstance(content, dict) or "architecture" not in content:
                return None
            published = content.get("pretrained_cfg") or content  # timm's older form is flat
            return describe_timm(content["architecture"], published, source, content.get("model_args") or {})
    except (
        ValueError, KeyError, TypeError, AttributeError, ArithmeticError, OSError, RuntimeError, AssertionError
    ) as error:  # fmt: skip
        reason = shortened(f"{type(error).__name__}: {error}", 200)
        message = f"{file} is not a description of the weights beside it ({reason}); correct or remove it"
        raise ModelError(message, kind="bad_description", path=file) from error


def write_beside(path: Path, config: BackboneConfig) -> None:
    """Describes a CLIP of OpenAI's kind, with a ViT, in open_clip_config.json beside its weight file."""
    content = {"model_cfg": open_clip.model_cfg(config), "preprocess_cfg": {"mean": CLIP_MEAN, "std": CLIP_STD}}
    write_text(path.with_name(OPEN_CLIP_JSON), json.dumps(content, indent=1) + "\n")


# ---- of the libraries ----


def describe_open_clip(model: dict[str, Any], preprocess: dict[str, Any], source: str) -> Description:
    """The description from open_clip's model configuration and preprocessing. Raises ModelError.

    Missing fields have open_clip's defaults, exact GELU and OpenAI's normalisation.
    """
    with amended(f"{source}: "):
        config = open_clip.backbone_config(model)
        mean, std = _normalisation({"mean": CLIP_MEAN, "std": CLIP_STD} | preprocess)
        interpolation, resize = _resizing(preprocess.get("interpolation"), preprocess.get("resize_mode"))
    return Description(
        config=config,
        mean=mean,
        std=std,
        interpolation=interpolation,
        resize=resize,
        upstream={"model_cfg": model},
        source=source,
    )


def describe_timm(
    architecture: str, published: dict[str, Any], source: str, model_args: dict[str, Any] | None = None
) -> Description:
    """The description of timm's model, read from timm's module, built without memory. Raises ModelError.

    architecture: timm's name, with or without a tag. published: its pretrained_cfg. model_args: of timm's function that
    builds the model; without img_size there, images have the published size.
    """
    if ":" in architecture or any(word in name for name in model_args or () for word in ("checkpoint", "pretrained")):
        message = f"{source} makes timm load another file, {architecture} {model_args or ''}; correct or remove it"
        raise ModelError(message, kind="foreign_file")
    with amended(f"{source}: "):
        fixed = published.get("fixed_input_size") and published.get("input_size")
        options = {"img_size": tuple(published["input_size"][-2:])} if fixed else {}
        config = _timm_config(architecture, options | (model_args or {}))
        mean, std = _normalisation(published)
        interpolation, resize = _resizing(published.get("interpolation"), published.get("crop_mode"))
    dinov2 = config.image.resolution == DINOV2_RESOLUTION
    return Description(
        config=config,
        mean=mean,
        std=std,
        interpolation=interpolation,
        resize=resize,
        resolution=LIFT_RESOLUTION if dinov2 else None,
        upstream={"architecture": architecture.partition(".")[0], "model_args": options | (model_args or {})},
        licence=published.get("license") or "",
        remark="; ".join(map(str, published.get("notes") or ())),
        source=source,
    )


def _timm_config(architecture: str, options: dict[str, Any]) -> BackboneConfig:
    try:
        model = build_module(architecture.partition(".")[0], TRANSFORMERS | RESNETS, options)
        if hasattr(model, "blocks"):
            return BackboneConfig(vit_config(model))
        return BackboneConfig(resnet_config(model))
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"timm cannot build its model {shortened(architecture)} ({reason}); correct or remove it"
        raise ModelError(message, kind="unknown_architecture") from error


def _normalisation(preprocess: dict[str, Any]) -> tuple[tuple[float, ...] | None, ...]:
    """Mean and std of a description, None where it has none. Raises ModelError for impossible values."""
    found: list[tuple[float, ...] | None] = []
    for key, lowest in (("mean", 0.0), ("std", 1e-6)):
        value = preprocess.get(key)
        numbers = isinstance(value, (list, tuple)) and all(type(each) in (int, float) for each in value)
        if value is not None and not (numbers and len(value) == 3 and all(lowest <= each <= 1 for each in value)):
            message = f"{key} must be three numbers from {lowest:g} to 1, found {shortened(str(value))}; correct it"
            raise ModelError(message, kind="bad_normalisation", key=key)
        found.append(None if value is None else tuple(value))
    return tuple(found)


def _resizing(interpolation: Any, rule: Any) -> tuple[str | None, str | None]:
    """Interpolation and resize rule of a description, as values of the configuration keys."""
    require(interpolation in (None, "bicubic", "bilinear", "random"), f"interpolation {interpolation}", "interpolation")
    require(rule in (None, "shortest", "center", "border", "squash"), f"the resize rule {rule}", "resize")
    return (
        None if interpolation == "random" else interpolation,
        {None: None, "squash": "squash"}.get(rule, "shortest"),
    )
