"""timm's and open_clip's own full-size modules, on the meta device, compared with their configs here."""

import contextlib
from collections.abc import Iterator
from typing import Any

import open_clip
import pytest
import timm
import torch
from helpers import assert_near
from timm.layers import weight_init
from torch import nn

from models.backbones.backbone import Backbone, BackboneConfig
from models.backbones.families import open_clip as families_of_open_clip
from models.backbones.families import timm_modules
from models.backbones.transformer import ACTIVATIONS
from models.weights import descriptions
from models.weights.naming import convert_state_dict


@contextlib.contextmanager
def without_first_values() -> Iterator[None]:
    """Modules are built without drawing first values, which takes two thirds of the time on the meta device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_init, "_trunc_normal_", lambda *args, **options: None)
        for name in dir(nn.init):
            if name.endswith("_") and not name.startswith("_"):
                patch.setattr(nn.init, name, lambda *args, **options: None)
        yield


@contextlib.contextmanager
def quick_meta() -> Iterator[None]:
    """Modules are built on the meta device without drawing first values."""
    with without_first_values(), torch.device("meta"):
        yield


@contextlib.contextmanager
def modules_built_once() -> Iterator[None]:
    """Descriptions share timm's modules: each is built once, without drawing first values."""
    modules: dict[tuple[str, str], nn.Module] = {}

    def build_once(name: str, kinds: dict[str, str], options: dict[str, Any]) -> nn.Module:
        key = name, str(options)
        if key not in modules:
            modules[key] = timm_modules.build_module(name, kinds, options)
        return modules[key]

    with pytest.MonkeyPatch.context() as patch, without_first_values():
        patch.setattr(descriptions, "build_module", build_once)
        patch.setattr(families_of_open_clip, "build_module", build_once)
        yield


def library_module(address: str) -> nn.Module:
    """The module of timm:MODEL.TAG or open_clip:MODEL/TAG in full size."""
    scheme, _, name = address.partition(":")
    with quick_meta():
        if scheme == "timm":
            return timm.create_model(name.partition(".")[0])
        model, _, tag = name.partition("/")
        quick_gelu = bool((open_clip.get_pretrained_cfg(model, tag) or {}).get("quick_gelu"))
        return open_clip.create_model(model, device="meta", load_weights=False, force_quick_gelu=quick_gelu)


def assert_same(theirs: nn.Module, config: BackboneConfig) -> None:
    """Checks that the backbone has the tensors of the library's module, and its heads, activations and eps."""
    with quick_meta():
        ours = Backbone(config)
    assert _shapes(convert_state_dict(theirs.state_dict())) == _shapes(ours.state_dict())
    for tower, blocks in (("image", _image_blocks(theirs)), ("text", _text_blocks(theirs))):
        described = getattr(config, tower)
        if blocks is not None:
            block = blocks[0]
            assert described.heads == block.attn.num_heads
            assert described.eps == (block.ln_1 if hasattr(block, "ln_1") else block.norm1).eps
            x = torch.linspace(-3, 3, 99)
            activation = block.mlp.gelu if hasattr(block.mlp, "gelu") else block.mlp.act
            assert_near(ACTIVATIONS[described.activation]()(x), activation(x), 1e-6)


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes, without BatchNorm's counts of training steps."""
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _image_blocks(model: nn.Module):
    """The blocks of the image tower; None for a ResNet."""
    visual = getattr(model, "visual", model)
    if hasattr(visual, "transformer"):
        return visual.transformer.resblocks
    return getattr(getattr(visual, "trunk", visual), "blocks", None)


def _text_blocks(model: nn.Module):
    """The blocks of the text tower; None without one."""
    text = getattr(model, "text", model if hasattr(model, "visual") else None)
    return None if text is None else text.transformer.resblocks
