"""Small models of every family with random weights: timm's and open_clip's own modules, and backbones from these."""

import contextlib
import copy
import functools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import timm
import torch
from full_size import modules_built_once
from helpers import randomize, weights_of
from safetensors.torch import save_file
from text_towers import SIGLIP, TOKENIZERS
from torch import nn

from models.backbones.backbone import Backbone, BackboneConfig
from models.weights.load import load_backbone

PATCHES, OTHER_PATCHES = 4, 6  # along a side, of a model's own resolution and of the other one
TEXTS = ["a photo of a cat.", "", "golden eagle that flies " * 20, "a photo of a tree frog."]
NAMES = ["cat", "tree_frog", "golden eagle"]
EMBEDDINGS = (
    "patch_embed.", "conv1.", "cls_token", "class_embedding", "reg_token", "pos_embed", "positional_embedding",
    "token_embedding.",
)  # fmt: skip

# ---- timm's image towers ----

SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2}
WIDE = SMALL | {"embed_dim": 128}
# timm's architecture and small sizes of it
FAMILIES = {
    "augreg": ("vit_tiny_patch16_224", SMALL),
    "augreg, heads of 32": ("vit_small_patch16_224", WIDE | {"num_heads": 4}),
    "CLIP's port, quick GELU": ("vit_base_patch16_clip_quickgelu_224", SMALL),
    "DeiT III": ("deit3_small_patch16_224", SMALL),
    "DINOv2": ("vit_base_patch14_dinov2", SMALL),
    "DINOv2, registers": ("vit_base_patch14_reg4_dinov2", SMALL),
    "DINOv2, gated": ("vit_giant_patch14_reg4_dinov2", SMALL | {"mlp_ratio": 4}),
    "TIPSv2": ("vit_base_patch14_reg1_tipsv2", SMALL),
    "SigLIP 2's tower": ("vit_base_patch16_siglip_224", SMALL),
    "SigLIP 2's tower, mean": ("vit_base_patch16_siglip_gap_224", SMALL),
    "SO400M": ("vit_so400m_patch14_siglip_224", SMALL | {"embed_dim": 72}),
    "registers, mean": ("vit_medium_patch16_reg1_gap_256", SMALL),
    "DINOv3": ("vit_base_patch16_dinov3", SMALL),
    "DINOv3, biases": ("vit_base_patch16_dinov3_qkvb", SMALL),
    "DINOv3, gated": ("vit_small_plus_patch16_dinov3", SMALL),
    "PE-Core's tower": ("vit_pe_core_base_patch16_224", SMALL | {"attn_pool_num_heads": 4}),
    "PE-Spatial": ("vit_pe_spatial_base_patch16_512", SMALL),
    "EVA-02, tiny": ("eva02_tiny_patch14_224", SMALL),
    "EVA-02, base": ("eva02_base_patch14_224", SMALL),
    "EVA02-CLIP's tower": ("eva02_base_patch16_clip_224", SMALL),
    "EVA": ("eva_large_patch14_196", SMALL),
    "rotation, mean": ("vit_medium_patch16_rope_reg1_gap_256", SMALL),
}


def timm_model(architecture: str, sizes: dict[str, Any], patches: int = PATCHES) -> tuple[nn.Module, dict[str, Any]]:
    """timm's own module in small, without a classifier, and its options."""
    patch = int(architecture.partition("_patch")[2][:2])
    options = sizes | {"img_size": patches * patch, "num_classes": 0}
    return with_small_embeddings(randomize(timm.create_model(architecture, **options))).eval(), options


@torch.no_grad()
def with_small_embeddings(model: nn.Module) -> nn.Module:
    """The model with embeddings so small that the eps of the first norm matters."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in EMBEDDINGS):
            parameter.mul_(0.01)
    return model


# ---- open_clip's models ----

JOINT = 48
VISION = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
SIGLIP_TEXT = SIGLIP | {
    "width": 64,
    "heads": 2,
    "layers": 2,
    "hf_tokenizer_name": "owner/tokenizer",
    "tokenizer_kwargs": {"clean": "canonicalize"},
}


def _clip(vision: dict[str, Any], **text: Any) -> dict[str, Any]:
    return {"embed_dim": JOINT, "vision_cfg": VISION | vision, "text_cfg": TEXT | text}


def _with_trunk(architecture: str, pool: str, proj: str | None, text: dict[str, Any], **more: Any) -> dict[str, Any]:
    vision = {"timm_model_name": architecture, "timm_pool": pool, "timm_proj": proj, "image_size": 64}
    # without a projection, the image feature is as wide as the joint space
    joint = SMALL["embed_dim"] if proj == "none" else JOINT
    return {"embed_dim": joint, "custom_text": True, "vision_cfg": vision, "text_cfg": text, **more}


# open_clip's configurations, as in its model_configs except for the sizes
OPEN_CLIP = {
    "OpenAI": _clip({}) | {"quick_gelu": True},
    "LAION": _clip({}),
    "ViT-H": _clip({"width": 160, "head_width": 80}),
    "ViT-bigG": _clip({"mlp_ratio": 4.9231}),
    "LayerScale": _clip({"ls_init_value": 0.5}, ls_init_value=0.5),
    "CLIPA's image tower": _clip({"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}),
    "mean of normed tokens": _clip({"pool_type": "avg"}),
    "SigLIP 2": _with_trunk(
        "vit_base_patch16_siglip_224",
        "map",
        "none",
        SIGLIP_TEXT | {"act_kwargs": {"approximate": "tanh"}},
        init_logit_bias=-10,
    ),
    "SigLIP": _with_trunk("vit_base_patch16_siglip_224", "map", "none", SIGLIP_TEXT, init_logit_bias=-10),
    "PE-Core": _with_trunk("vit_pe_core_base_patch16_224", "map", None, TEXT | {"context_length": 32}),
    "EVA02-CLIP": _with_trunk("eva02_base_patch16_clip_224", "token", None, TEXT),
    "MobileCLIP2-L-14": _with_trunk("vit_large_patch14_clip_224", "token", None, TEXT | {"no_causal_mask": True}),
    "a trunk, then a projection": _with_trunk("vit_base_patch16_clip_224", "token", "linear", TEXT),
    # the norm stays before the mean if a projection follows, and is after it if timm's head does
    "a mean, then a projection": _with_trunk("vit_base_patch16_clip_224", "avg", "linear", TEXT),
    "a mean, then timm's head": _with_trunk("vit_base_patch16_clip_224", "avg", None, TEXT),
    "rotation, a mean, a projection": _with_trunk("eva02_base_patch16_clip_224", "avg", "linear", TEXT),
}
TOKENIZER_FILES = {"SigLIP 2": "gemma", "SigLIP": "t5"}  # folders of TOKENIZERS


def patch_of(cfg: dict[str, Any]) -> int:
    """The side of a patch of a configuration, pixels."""
    vision = cfg["vision_cfg"]
    return vision.get("patch_size") or int(vision["timm_model_name"].partition("_patch")[2][:2])


@contextlib.contextmanager
def small_trunks() -> Iterator[None]:
    """timm builds the trunks of OPEN_CLIP in small: open_clip's configurations have no sizes of them."""
    from timm.models import _registry

    def small(architecture: str, patch: int) -> Any:
        full = timm.model_entrypoint(architecture)
        sizes = SMALL | {"img_size": PATCHES * patch}
        if "pe_core" in architecture:
            sizes["attn_pool_num_heads"] = 4

        @functools.wraps(full)
        def build(pretrained=False, **options):
            return full(pretrained, **(sizes | options))

        return build

    names = {cfg["vision_cfg"].get("timm_model_name"): patch_of(cfg) for cfg in OPEN_CLIP.values()}
    entries = {name: small(name, patch) for name, patch in names.items() if name}
    with mock.patch.dict(_registry._model_entrypoints, entries):
        yield


def open_clip_model(cfg: dict[str, Any], patches: int = PATCHES) -> nn.Module:
    """open_clip's own model of a configuration, for images with this number of patches, with random weights."""
    from open_clip.model import CLIP, CustomTextCLIP

    cfg = dict(cfg)
    kind = CustomTextCLIP if cfg.pop("custom_text", False) else CLIP
    cfg["vision_cfg"] = cfg["vision_cfg"] | {"image_size": patches * VISION["patch_size"]}
    with small_trunks():
        model = kind(**cfg)
    return with_small_embeddings(randomize(model)).eval()


@functools.cache
@torch.no_grad()
def at_other_resolution(name: str) -> nn.Module:
    """The other library's module of `pair(name)`, for images of OTHER_PATCHES. Tests share it, and leave it alone."""
    from open_clip.model import resize_pos_embed

    theirs, _, other = pair(name)
    if hasattr(theirs, "visual") and not hasattr(theirs.visual, "trunk"):  # open_clip's own ViT
        model = open_clip_model(OPEN_CLIP[name], OTHER_PATCHES)
        state = theirs.state_dict()
        resize_pos_embed(state, model)
        model.load_state_dict(state)
        return model
    model = copy.deepcopy(theirs)
    trunk = model.visual.trunk if hasattr(model, "visual") else model
    trunk.set_input_size(img_size=(other.image.resolution, other.image.resolution))
    return model


# ---- native ----


class Pair(NamedTuple):
    """Another library's module, and the backbone from a file of its weights. Tests share and do not change them."""

    theirs: nn.Module
    ours: Backbone
    other: Backbone  # the same for images of OTHER_PATCHES


@functools.cache
def pair(name: str) -> Pair:
    """The modules of a family of FAMILIES or OPEN_CLIP."""
    with tempfile.TemporaryDirectory() as folder:
        if name in OPEN_CLIP:
            return _open_clip_pair(name, Path(folder))
        architecture, sizes = FAMILIES[name]
        theirs, options = timm_model(architecture, sizes)
        config = {"architecture": architecture, "model_args": options}
        config["pretrained_cfg"] = {"mean": [0.5] * 3, "std": [0.5] * 3}
        (Path(folder) / "config.json").write_text(json.dumps(config))
        other = options["img_size"] // PATCHES * OTHER_PATCHES
        return Pair(theirs, *_load("vit", theirs, Path(folder), other))


def _open_clip_pair(name: str, folder: Path) -> Pair:
    cfg = OPEN_CLIP[name]
    theirs = open_clip_model(cfg)
    content = {"model_cfg": cfg, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    with small_trunks():
        found = Pair(theirs, *_load("clip_vit", theirs, folder, OTHER_PATCHES * patch_of(cfg)))
    if name in TOKENIZER_FILES:  # read at the first text
        kept = TOKENIZERS / TOKENIZER_FILES[name]
        for file in kept.iterdir():
            shutil.copy(file, folder)
        for backbone in found[1:]:
            backbone.tokenizer.encode(["x"])
    return found


def _load(family: str, theirs: nn.Module, folder: Path, other: int) -> tuple[Backbone, Backbone]:
    path = folder / "model.safetensors"
    save_file(weights_of(theirs), path)
    with modules_built_once():
        own, resampled = (load_backbone(family, str(path), resolution=resolution)[0] for resolution in (None, other))
    return own.requires_grad_(False).eval(), resampled.requires_grad_(False).eval()


def rebuilt(config: BackboneConfig, state: dict[str, torch.Tensor], like: Backbone) -> Backbone:
    """A backbone of another config from some or all native tensors. It reads images and texts as `like` does."""
    backbone = Backbone(config)
    missing, _ = backbone.load_state_dict(state, strict=False)
    assert not missing, missing
    backbone.mean, backbone.std = like.mean, like.std
    if config.text is not None:
        backbone.tokenizer = like.tokenizer
    return backbone.requires_grad_(False).eval()


# ---- inputs and outputs ----


def projected_images(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    """Image features in the joint space."""
    features, matrix, bias = backbone.image(images), backbone.image_projection, backbone.image_projection_bias
    features = features if matrix is None else features @ matrix
    return features if bias is None else features + bias


def projected_texts(backbone: Backbone, tokens: torch.Tensor) -> torch.Tensor:
    """Text features in the joint space."""
    features = backbone.text(tokens, backbone.tokenizer.ends(tokens)) @ backbone.text_projection
    bias = backbone.text_projection_bias
    return features if bias is None else features + bias


def random_pixels(backbone: Backbone) -> torch.Tensor:
    """Images before normalisation, uint8."""
    shape, generator = (3, 3, *[backbone.image.resolution] * 2), torch.Generator().manual_seed(0)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """With the mean and the deviation in the files of OPEN_CLIP."""
    return (images / 255 - 0.5) / 0.25


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())
