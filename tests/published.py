"""The published families in small, as repositories of the hub: each library's own module, random weights, 32 pixels."""

import contextlib
import functools
import hashlib
import json
from typing import Any

import timm
import torch
from helpers import private_hub, randomize, web_server, weights_of
from safetensors.torch import save
from text_towers import TOKENIZERS
from torch import nn

OPEN_CLIP_JSON, TIMM_JSON = "open_clip_config.json", "config.json"
SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
SIGLIP_TEXT = TEXT | {
    "context_length": 64, "vocab_size": 900, "hf_tokenizer_name": "test/siglip2",
    "tokenizer_kwargs": {"clean": "canonicalize"}, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"},
}  # fmt: skip
# as the published models' JSON, beside the sizes
TIMM = {
    "dinov2_reg": ("vit_base_patch14_reg4_dinov2", {"interpolation": "bicubic", "crop_mode": "center"}),
    "dinov3": ("vit_base_patch16_dinov3", {"interpolation": "bicubic", "crop_mode": "center"}),
    "eva02": ("eva02_base_patch14_224", {"interpolation": "bicubic", "crop_mode": "squash"}),
    "augreg": ("vit_tiny_patch16_224", {"interpolation": "bilinear", "crop_mode": "center"}),
}
OPEN_CLIP = {
    "laion": (
        {"vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}},
        TEXT,
        {"interpolation": "bicubic", "resize_mode": "shortest"},
    ),
    "siglip2": (
        {
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": {"timm_model_name": "small_siglip2", "timm_pool": "map", "timm_proj": "none"},
        },
        SIGLIP_TEXT,
        {"interpolation": "bicubic", "resize_mode": "squash"},
    ),
    "pe_core": (
        {
            "custom_text": True,
            "vision_cfg": {"timm_model_name": "small_pe_core", "timm_pool": "map", "timm_proj": None},
        },
        TEXT | {"context_length": 32},
        {"interpolation": "bilinear", "resize_mode": "squash"},
    ),
    "eva02_clip": (
        {
            "custom_text": True,
            "vision_cfg": {"timm_model_name": "small_eva02_clip", "timm_pool": "token", "timm_proj": None},
        },
        TEXT,
        {"interpolation": "bicubic", "resize_mode": "shortest"},
    ),
}
TRUNKS = {
    "small_siglip2": ("vit_base_patch16_siglip_224", {}),
    "small_pe_core": ("vit_pe_core_base_patch16_224", {"attn_pool_num_heads": 4}),
    "small_eva02_clip": ("eva02_base_patch16_clip_224", {}),
}


def register_trunks() -> None:
    """Adds small architectures to timm's table, as open_clip's JSON has the name of one without its sizes."""
    for name, (original, more) in TRUNKS.items():
        if not timm.is_model(name):
            _register(name, timm.model_entrypoint(original), SMALL | more)


def _register(name: str, entry, sizes: dict[str, Any]) -> None:
    def build(pretrained=False, **options):
        return entry(pretrained, **(sizes | options))

    build.__name__, build.__module__ = name, entry.__module__
    timm.models.register_model(build)


def open_clip_module(model: dict[str, Any]) -> nn.Module:
    """open_clip's own module of a model_cfg."""
    from open_clip.model import CLIP, CustomTextCLIP

    register_trunks()
    model = dict(model)
    kind = CustomTextCLIP if model.pop("custom_text", False) else CLIP
    return kind(**model)


@functools.cache
def repository(name: str) -> tuple[nn.Module, dict[str, bytes]]:
    """The library's own module, and the files of its repository test/NAME."""
    if name in TIMM:
        architecture, preprocess = TIMM[name]
        model = randomize(timm.create_model(architecture, num_classes=0, **SMALL)).eval()
        content = {"architecture": architecture, "model_args": SMALL, "num_classes": 0}
        content |= {"pretrained_cfg": {"mean": MEAN, "std": STD, "license": "mit", **preprocess}}
        return model, {TIMM_JSON: json.dumps(content).encode(), "model.safetensors": save(weights_of(model))}
    vision, text, preprocess = OPEN_CLIP[name]
    config = {"embed_dim": 64, **vision, "text_cfg": text}
    model = randomize(open_clip_module(config)).eval()
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    content = {"model_cfg": config, "preprocess_cfg": {"mean": MEAN, "std": STD, **preprocess}}
    files = {OPEN_CLIP_JSON: json.dumps(content).encode(), "open_clip_model.safetensors": save(weights_of(model))}
    if "hf_tokenizer_name" in text:
        files |= {path.name: path.read_bytes() for path in (TOKENIZERS / "gemma").iterdir()}
    return model, files


def build_hub(folder, monkeypatch):
    """serve({REPOSITORY: {file: content}}) -> a context with such a hub; yields the paths asked for. Empty caches."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    use = private_hub(monkeypatch, folder)

    def etag(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest() if len(content) > 4096 else hashlib.sha1(content).hexdigest()

    @contextlib.contextmanager
    def serve(repositories, code="EntryNotFound", missing=404):
        pages = {
            f"/{repository}/resolve/main/{file}": content
            for repository, files in repositories.items()
            for file, content in files.items()
        }
        headers = {"X-Repo-Commit": "0" * 40, "X-Error-Code": code}
        with web_server(pages, headers, missing, etag) as (address, asked):
            use(address)
            yield asked

    return serve
