"""Properties that the tensors of a weight file do not determine: activation, heads, normalisation. Never assumed.

Sources, in order of precedence: the user's keys, the registry of the library that publishes the weights, OpenAI's known
checksums, the JSON beside the file (open_clip's open_clip_config.json, timm's config.json). A description that asks for
a feature which the towers lack is an error that names the feature.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from models.backbones.backbone import Geometry
from models.backbones.tokenizer import VOCABULARY
from models.backbones.vit import HEAD_DIM
from utils.config.parsing import NORMALISATIONS
from utils.errors import ModelError, amended
from utils.files import write_text
from utils.text import shortened

CLIP_MEAN, CLIP_STD = NORMALISATIONS["clip"]
OPEN_CLIP_JSON, TIMM_JSON = "open_clip_config.json", "config.json"
JSON_BYTES = 2**20  # of a description; real ones have a few thousand
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

    sizes: the sizes in the description, to be compared with the tensors; source: its file or address, for messages.
    """

    activation: str | None = None  # quick_gelu or gelu
    heads: int | None = None  # of the image tower
    head_width: int | None = None  # of the image tower, instead of the number of heads
    text_heads: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    sizes: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: str = ""
    notes: tuple[str, ...] = ()

    def or_else(self, other: "Description") -> "Description":
        """This description, its unknown fields as `other` has them."""
        found = {
            field.name: getattr(self, field.name) or getattr(other, field.name) for field in dataclasses.fields(self)
        }
        return Description(**found)


def beside(path: Path) -> Description:
    """The description in the folder of a weight file; an empty one where there is none. Raises ModelError."""
    for name, read in ((OPEN_CLIP_JSON, _open_clip_json), (TIMM_JSON, _timm_json)):
        file = path.with_name(name)
        if not file.is_file():
            continue
        try:
            if file.stat().st_size > JSON_BYTES:
                raise ValueError(f"more than {JSON_BYTES:,} bytes")
            content = json.loads(file.read_text(encoding="utf-8-sig"))
            with amended(path=file):
                found = read(content, str(file))
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, OSError, RecursionError) as error:
            reason = shortened(f"{type(error).__name__}: {error}", 200)
            message = f"{file} is not a description of the weights beside it ({reason}); correct or remove it"
            raise ModelError(message, kind="bad_description", path=file) from error
        if found is not None:
            return found
    return Description()


def write_beside(path: Path, geometry: Geometry) -> None:
    """Describes a CLIP of OpenAI's kind in open_clip_config.json beside its weight file: quick GELU, heads 64 wide."""
    vision: dict[str, Any] = {"image_size": geometry.resolution, "patch_size": geometry.patch}
    vision |= {"layers": list(geometry.stages) or geometry.depth, "width": geometry.width or geometry.dim}
    text = {"context_length": geometry.context, "vocab_size": VOCABULARY, "width": geometry.text_dim}
    text |= {"heads": max(geometry.text_dim // HEAD_DIM, 1), "layers": geometry.text_depth}
    model = {"embed_dim": geometry.joint, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    content = {"model_cfg": model, "preprocess_cfg": {"mean": CLIP_MEAN, "std": CLIP_STD}}
    write_text(path.with_name(OPEN_CLIP_JSON), json.dumps(content, indent=1) + "\n")


# ---- open_clip ----

# keys of open_clip's configurations that are sizes, which the tensors have, or that only training and loading read
NOT_COMPUTED = {
    "image_size", "layers", "width", "head_width", "patch_size", "patch_dropout", "output_tokens",
    "context_length", "vocab_size", "heads", "pad_id", "eos_id", "tokenizer_mode",
    "timm_model_pretrained", "timm_drop", "timm_drop_path", "hf_model_pretrained",
}  # fmt: skip
MODEL_FIELDS = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "custom_text", "init_logit_scale"}


def _open_clip_json(content: dict[str, Any], source: str) -> Description:
    return describe_open_clip(content["model_cfg"], content.get("preprocess_cfg") or {}, source)


def describe_open_clip(model: dict[str, Any], preprocess: dict[str, Any], source: str) -> Description:
    """The description in open_clip's own terms: its model configuration and its preprocessing. Raises ModelError.

    Missing fields have open_clip's defaults, exact GELU and OpenAI's normalisation.
    """
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg  # heavy: imported where it is used

    vision, text = model["vision_cfg"], model["text_cfg"]
    asked = {name: value for name, value in model.items() if name not in MODEL_FIELDS and value}
    for section, given, defaults in (("vision_cfg", vision, CLIPVisionCfg()), ("text_cfg", text, CLIPTextCfg())):
        for name, value in given.items():
            usual = getattr(defaults, name, None)
            if name not in NOT_COMPUTED and (value or None) != (usual or None):
                asked[f"{section}.{name}"] = value
    if asked:
        name, value = next(iter(asked.items()))
        message = (
            f"{source} asks for {shortened(name)} {shortened(str(value))}, which the towers here lack; "
            "choose weights of a plain CLIP ViT or ResNet"
        )
        raise ModelError(message, kind="unsupported_feature", key=name)
    mean, std = _normalisation({"mean": CLIP_MEAN, "std": CLIP_STD} | preprocess, source)
    sizes, heads = _open_clip_sizes(model, source)
    return Description(
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
        heads=heads,
        text_heads=_whole(text, "heads", 8, source),
        mean=mean,
        std=std,
        sizes=sizes,
        source=source,
        notes=_preprocessing_notes(source, preprocess.get("interpolation"), preprocess.get("resize_mode")),
    )


def _open_clip_sizes(model: dict[str, Any], source: str) -> tuple[dict[str, Any], int | None]:
    """The sizes of open_clip's model in the terms of a Geometry, and its heads (None for a ResNet)."""
    vision, text = model["vision_cfg"], model["text_cfg"]
    sizes: dict[str, Any] = {
        "joint": _whole(model, "embed_dim", None, source),
        "text_dim": _whole(text, "width", 512, source),
        "text_depth": _whole(text, "layers", 12, source),
        "context": _whole(text, "context_length", 77, source),
    }
    width, head_width = _whole(vision, "width", 768, source), _whole(vision, "head_width", HEAD_DIM, source)
    layers = vision.get("layers", 12)
    if isinstance(layers, (list, tuple)):
        if head_width != HEAD_DIM:
            message = (
                f"{source} asks for heads {head_width} wide in a ResNet's attention pool, which here are {HEAD_DIM} "
                "wide; choose other weights"
            )
            raise ModelError(message, kind="unsupported_feature", key="head_width")
        return sizes | {"width": width, "stages": tuple(layers)}, None
    if width % head_width:
        message = f"{source}: head_width {head_width} does not divide the width {width}; correct it"
        raise ModelError(message, kind="indivisible_heads", key="head_width")
    sizes |= {"dim": width, "depth": _whole(vision, "layers", 12, source)}
    return sizes | {"patch": _whole(vision, "patch_size", 16, source)}, width // head_width


def _whole(section: dict[str, Any], key: str, default: int | None, source: str) -> int:
    """A size in a description. Raises ModelError for anything but a whole number above 0."""
    value = section.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 1:
        raise ModelError(
            f"{source}: {key} takes a whole number above 0, found {shortened(repr(value))}; correct it",
            kind="bad_size",
            key=key,
        )
    return int(value)


def _normalisation(preprocess: dict[str, Any], source: str) -> tuple[tuple[float, ...] | None, ...]:
    """Mean and std of a description, None where it has none. Raises ModelError for values that cannot be one."""
    found: list[tuple[float, ...] | None] = []
    for key, lowest in (("mean", 0.0), ("std", 1e-6)):
        value = preprocess.get(key)
        numbers = isinstance(value, (list, tuple)) and all(type(each) in (int, float) for each in value)
        if value is not None and not (numbers and len(value) == 3 and all(lowest <= each <= 1 for each in value)):
            message = (
                f"{source}: {key} takes three numbers from {lowest:g} to 1, found {shortened(str(value))}; correct it"
            )
            raise ModelError(message, kind="bad_normalisation", key=key)
        found.append(None if value is None else tuple(value))
    return tuple(found)


def _preprocessing_notes(source: str, interpolation: str | None, resize: str | None = None) -> tuple[str, ...]:
    """The differences of the source's preprocessing from that of this project, in a sentence each."""
    notes = []
    if interpolation not in (None, "bicubic", "random"):
        notes.append(f"{source} resizes images {interpolation}; see the key interpolation")
    if resize not in (None, "shortest"):
        notes.append(f"{source} resizes images by '{resize}'; here the short side is resized and a square cropped")
    return tuple(notes)


# ---- timm ----


def _timm_json(content: dict[str, Any], source: str) -> Description | None:
    """timm's config.json on the hub; None for the config.json of another library."""
    if not isinstance(content, dict) or "architecture" not in content:
        return None
    published = content.get("pretrained_cfg") or {}
    return describe_timm(content["architecture"], published, source, content.get("model_args") or {})


def describe_timm(
    architecture: str, published: dict[str, Any], source: str, model_args: dict[str, Any] | None = None
) -> Description:
    """The description of timm's model, read from timm's own module, built without memory. Raises ModelError.

    published: timm's pretrained_cfg, whose mean and std count.
    """
    import timm  # heavy: imported where it is used

    if ":" in architecture or any(word in name for name in model_args or () for word in ("checkpoint", "pretrained")):
        message = f"{source} asks timm to load another file, {architecture} {model_args or ''}; correct or remove it"
        raise ModelError(message, kind="foreign_file")
    try:
        with torch.device("meta"):
            model = timm.create_model(architecture, pretrained=False, **(model_args or {}))
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"{source} names timm's model {architecture}, which timm cannot build ({reason}); correct or remove it",
            kind="unknown_architecture",
        ) from error
    mean, std = _normalisation(published, source)
    notes = _preprocessing_notes(source, published.get("interpolation"))
    is_vit = type(model) is timm.models.vision_transformer.VisionTransformer
    known = _timm_vit(model, source) if is_vit else _timm_resnet(model, source)
    return dataclasses.replace(known, mean=mean, std=std, source=source, notes=notes)


def _timm_vit(model: Any, source: str) -> Description:
    """Activation and heads of timm's VisionTransformer. Features with tensors of their own are left to the loader."""
    from timm.layers import GELU, QuickGELU
    from timm.models.vision_transformer import Block

    def require(plain: bool, feature: str) -> None:
        if not plain:
            message = f"{source} has {feature}, which the ViT here lacks; choose weights of a plain ViT"
            raise ModelError(message, kind="unsupported_feature")

    require(model.global_pool == "token", f"pooling '{model.global_pool}'")
    require(model.num_prefix_tokens == 1, f"{model.num_prefix_tokens} tokens before the patches")
    require(not getattr(model, "no_embed_class", False), "positions on the patches alone")
    block = model.blocks[0]
    require(all(type(each) is Block for each in model.blocks), f"blocks of the kind {type(block).__name__}")
    activation = block.mlp.act
    quick, exact = isinstance(activation, QuickGELU), isinstance(activation, (torch.nn.GELU, GELU))
    exact = exact and getattr(activation, "approximate", "none") == "none"
    require(quick or exact, f"the activation {type(activation).__name__}")
    eps = {getattr(norm, "eps", None) for norm in (block.norm1, model.norm)}
    require(eps == {1e-6}, f"norms with eps {', '.join(map(str, eps))}")
    sizes = {"dim": model.embed_dim, "depth": len(model.blocks), "patch": model.patch_embed.patch_size[0]}
    return Description("quick_gelu" if quick else "gelu", heads=block.attn.num_heads, sizes=sizes)


def _timm_resnet(model: Any, source: str) -> Description:
    """The sizes, which are all that is known, of timm's plain ResNet. Raises ModelError for any other module."""
    from timm.models.resnet import Bottleneck, ResNet

    from models.backbones.resnet import imagenet_net

    stages = (getattr(model, f"layer{i}", ()) for i in (1, 2, 3, 4))
    depths = tuple(len(stage) for stage in stages)
    first: Any = next(iter(getattr(model, "layer1", ())), None) if type(model) is ResNet else None
    if type(first) is Bottleneck:
        width = first.conv1.out_channels
        with torch.device("meta"):
            plain = imagenet_net(depths, width)
        model.reset_classifier(0)
        if str(model) == str(plain):
            return Description(sizes={"width": width, "stages": depths})
    raise ModelError(
        f"{source} is timm's {type(model).__name__} with layers that the towers here lack; choose weights of a plain "
        "ViT, or of a ResNet with plain bottlenecks",
        kind="unsupported_feature",
    )
