"""open_clip's models, from their own configurations: its ViTs and ResNets, and towers of timm beside a text tower.

SigLIP (arXiv 2303.15343), SigLIP 2 (2502.14786), PE (2504.13181) and EVA02-CLIP (2303.15389) have a trunk of timm.
"""

from typing import Any, cast

from models.backbones.backbone import BackboneConfig
from models.backbones.families import clip, timm_vit
from models.backbones.families.features import require
from models.backbones.families.timm_modules import TRANSFORMERS, build_module
from models.backbones.families.timm_vit import vit_config
from models.backbones.naming import Naming, Rename
from models.backbones.pooling import Pooling
from models.backbones.resnet import ResNetConfig
from models.backbones.text import TextConfig
from models.backbones.vit import ViTConfig
from utils.errors import ModelError
from utils.text import shortened

TRUNK: tuple[Rename, ...] = (
    ("visual.trunk.head.", "image_projection.", ()),
    ("visual.head.proj.", "image_projection.", ()),
    *((f"visual.trunk.{upstream}", native, rest) for upstream, native, rest in timm_vit.VIT),
)
EVA_CLIP: tuple[Rename, ...] = (  # EVA02-CLIP's own files
    ("visual.head.", "image_projection.", ()),
    *((f"visual.{upstream}", native, rest) for upstream, native, rest in timm_vit.VIT),
)
NAMINGS = (
    Naming("open_clip's CLIP with a transformer of timm", "visual.trunk.", TRUNK + clip.TEXT),
    Naming("EVA-CLIP's own", "visual.blocks.", EVA_CLIP + clip.TEXT),
)

# keys that only training, loading and tokenizers read
NOT_COMPUTED = {
    "patch_dropout", "output_tokens", "pad_id", "eos_id", "tokenizer_mode", "timm_model_pretrained", "timm_drop",
    "timm_drop_path", "hf_model_pretrained",
}  # fmt: skip
MODEL_KEYS = {
    "embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "custom_text", "init_logit_scale", "init_logit_bias",
}  # fmt: skip
VIT_KEYS = {
    "image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "ls_init_value", "no_ln_pre",
    "final_ln_after_pool", "pool_type", "act_kwargs", "norm_kwargs",
}  # fmt: skip
RESNET_KEYS = {"image_size", "layers", "width", "head_width", "patch_size"}
TRUNK_KEYS = {"image_size", "timm_model_name", "timm_pool", "timm_proj", "timm_proj_bias"}
TEXT_KEYS = {
    "context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_kwargs", "width", "heads", "layers", "mlp_ratio",
    "ls_init_value", "no_causal_mask", "pool_type", "proj_type", "proj_bias", "act_kwargs", "norm_kwargs",
}  # fmt: skip
# pooling of texts: at the end token, which has the largest id in CLIP's vocabulary, or the last token
POOLS = {"argmax": "end", "last": "last"}


def backbone_config(model: dict[str, Any]) -> BackboneConfig:
    """The config of a model that open_clip describes. Missing keys have open_clip's defaults.

    Raises ModelError for a feature that is not supported here, and KeyError, TypeError, ValueError for a dict that is
    not such a configuration.
    """
    _require_known(model, MODEL_KEYS)
    quick = bool(model.get("quick_gelu"))
    vision, text_cfg = model["vision_cfg"], model["text_cfg"]
    image: ViTConfig | ResNetConfig
    joint = whole(model, "embed_dim")
    text = text_config(text_cfg, quick)
    projects_texts = text_cfg.get("proj_type", "linear") != "none"
    require(projects_texts or text.dim == joint, f"a text feature {text.dim} wide in a joint space {joint} wide")
    logit_bias = model.get("init_logit_bias") is not None
    if vision.get("timm_model_name"):
        image, projects, has_bias = _trunk(vision, joint)
    elif isinstance(vision.get("layers"), (list, tuple)):
        image, projects, has_bias = _resnet(vision, joint), False, False
    else:
        image, projects, has_bias = _vit(vision, quick), True, False
    return BackboneConfig(image, text, joint, projects, projects_texts, has_bias, logit_bias)


def model_cfg(config: BackboneConfig) -> dict[str, Any]:
    """open_clip's configuration of a CLIP with a plain ViT or a ResNet: `backbone_config` inverted for these.

    The model of a config of another form does not have that config.
    """
    image, text = config.image, cast(TextConfig, config.text)
    vision: dict[str, Any] = {"image_size": image.resolution}
    if isinstance(image, ResNetConfig):
        vision |= {"layers": list(image.stages), "width": image.width, "patch_size": None}
    else:
        vision |= {"patch_size": image.patch, "layers": image.depth, "width": image.dim}
        vision |= _ratio(image.hidden, image.dim)
        head_width = image.dim // (image.heads or 1)
        vision |= {"head_width": head_width} if head_width != clip.HEAD_DIM else {}
    texts: dict[str, Any] = {"context_length": text.context, "vocab_size": text.vocabulary, "width": text.dim}
    texts |= {"heads": text.heads, "layers": text.depth, **_ratio(text.hidden, text.dim)}
    quick = config.activation == "quick_gelu"
    return {"embed_dim": config.joint, "quick_gelu": quick, "vision_cfg": vision, "text_cfg": texts}


def _ratio(hidden: int | None, dim: int) -> dict[str, float]:
    return {"mlp_ratio": hidden / dim} if hidden else {}


def text_config(text: dict[str, Any], quick: bool) -> TextConfig:
    """The config of a text tower; quick: whether its activation is quick GELU."""
    require(not text.get("hf_model_name"), f"the text tower {text.get('hf_model_name')}")
    _require_known(text, TEXT_KEYS, "text_cfg", "CLIPTextCfg")
    pool = text.get("pool_type", "argmax")
    require(pool in POOLS, f"pooling of texts '{pool}'", "text_cfg.pool_type")
    dim, cleaning = whole(text, "width", 512), dict(text.get("tokenizer_kwargs") or {})
    clean = cleaning.pop("clean", "whitespace") if text.get("hf_tokenizer_name") else ""
    require(not cleaning, f"a tokenizer with {', '.join(cleaning)}")
    return TextConfig(
        dim=dim,
        depth=whole(text, "layers", 12),
        context=whole(text, "context_length", 77),
        vocabulary=whole(text, "vocab_size", 49408),
        heads=whole(text, "heads", 8),
        hidden=_hidden(text, dim),
        activation=_activation(text, quick),
        eps=_eps(text),
        causal=not text.get("no_causal_mask"),
        pool=POOLS[pool],
        projection_bias=bool(text.get("proj_bias")),
        tokenizer=text.get("hf_tokenizer_name") or "",
        clean=clean,
    )


def _vit(vision: dict[str, Any], quick: bool) -> ViTConfig:
    """open_clip's own ViT."""
    _require_known(vision, VIT_KEYS, "vision_cfg", "CLIPVisionCfg")
    dim, head_width = whole(vision, "width", 768), whole(vision, "head_width", 64)
    if dim % head_width:
        message = f"head_width {head_width} does not divide the width {dim}; correct it"
        raise ModelError(message, kind="indivisible_heads", key="head_width")
    pools = {"tok": Pooling(), "avg": Pooling("mean")}
    pool, after = vision.get("pool_type", "tok"), bool(vision.get("final_ln_after_pool"))
    require(pool in pools, f"pooling '{pool}'", "vision_cfg.pool_type")
    return ViTConfig(
        dim=dim,
        depth=whole(vision, "layers", 12),
        patch=_side(vision, "patch_size", 16),
        resolution=_side(vision, "image_size", 224),
        heads=dim // head_width,
        activation=_activation(vision, quick),
        hidden=_hidden(vision, dim),
        eps=_eps(vision),
        patch_bias=False,
        norm_pre=not vision.get("no_ln_pre"),
        pooling=pools[pool],
        final_norm="feature" if pool == "tok" or after else "tokens",
    )


def _resnet(vision: dict[str, Any], joint: int) -> ResNetConfig:
    _require_known(vision, RESNET_KEYS, "vision_cfg", "CLIPVisionCfg")
    head_width = whole(vision, "head_width", 64)
    require(head_width == clip.HEAD_DIM, f"heads {head_width} wide in the attention pool", "head_width")
    stages = tuple(whole({"layers": blocks}, "layers") for blocks in vision["layers"])
    return ResNetConfig(stages, whole(vision, "width", 768), _side(vision, "image_size", 224), joint)


def _trunk(vision: dict[str, Any], joint: int) -> tuple[ViTConfig, bool, bool]:
    """A tower of timm, whether a projection follows it, and whether that has a bias."""
    _require_known(vision, TRUNK_KEYS | VIT_KEYS, "vision_cfg", "CLIPVisionCfg")
    name, pool = vision["timm_model_name"], vision.get("timm_pool", "avg")
    projection = vision.get("timm_proj", "linear")
    require(projection in (None, "", "none", "linear"), f"the image projection '{projection}'")
    require(pool not in ("abs_attn", "rot_attn"), f"pooling '{pool}'")
    if projection == "linear":
        model = build_module(name, TRANSFORMERS, {})
        if pool:
            model.reset_classifier(0, global_pool=pool)  # as open_clip does: the norms stay where they were
    else:
        model = build_module(name, TRANSFORMERS, {"num_classes": joint, "global_pool": pool})
    image = vit_config(model)
    if projection == "none":
        require(image.dim == joint, f"an image feature {image.dim} wide in a joint space {joint} wide")
        return image, False, False
    return image, True, bool(vision.get("timm_proj_bias")) if projection == "linear" else True


# ---- values of a configuration ----


def _require_known(given: dict[str, Any], known: set[str], section: str = "", config: str | None = None) -> None:
    """Raises ModelError for a key that is neither known nor at its default in open_clip's class `config`."""
    others = {name: value for name, value in given.items() if name not in known | NOT_COMPUTED}
    defaults = _defaults(config) if others and config else {}
    prefix = f"{section}." if section else ""
    for name, value in others.items():
        usual = (value or None) == (defaults.get(name) or None)
        require(usual, f"{prefix}{shortened(name)} {shortened(str(value))}", f"{prefix}{name}")


def _defaults(config: str) -> dict[str, Any]:
    """The defaults of CLIPTextCfg or CLIPVisionCfg."""
    from open_clip import model  # heavy, 2 s: imported where it is used

    return vars(getattr(model, config)())


def whole(section: dict[str, Any], key: str, default: int | None = None) -> int:
    """A size in a description. Raises ModelError for anything but a whole number above 0."""
    value = section.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 1:
        message = f"{key} must be a whole number above 0, found {shortened(repr(value))}; correct it"
        raise ModelError(message, kind="bad_size", key=key)
    return int(value)


def _side(section: dict[str, Any], key: str, default: int) -> int:
    """The side of a square, given as one number or as two equal ones. Raises ModelError for another rectangle, too."""
    value = section.get(key, default)
    if not isinstance(value, (list, tuple)):
        return whole(section, key, default)
    require(len(value) == 2 and value[0] == value[1], f"a rectangular {key}, {shortened(str(value))}", key)
    return whole({key: value[0]}, key)


def _hidden(section: dict[str, Any], dim: int) -> int | None:
    hidden = int(dim * section.get("mlp_ratio", 4.0))
    return None if hidden == 4 * dim else hidden


def _activation(section: dict[str, Any], quick: bool) -> str:
    options = dict(section.get("act_kwargs") or {})
    tanh = options.pop("approximate", "none") == "tanh"
    require(not options and not (tanh and quick), f"act_kwargs {section.get('act_kwargs')}", "act_kwargs")
    return "quick_gelu" if quick else "gelu_tanh" if tanh else "gelu"


def _eps(section: dict[str, Any]) -> float:
    options = dict(section.get("norm_kwargs") or {})
    eps = float(options.pop("eps", 1e-5))
    require(not options, f"norm_kwargs {section.get('norm_kwargs')}", "norm_kwargs")
    return eps
