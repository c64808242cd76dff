"""Folds fine-tuning methods into the weights of a tower: a bare tower that computes the same features."""

import copy
from typing import Any, TypeVar, cast

import torch
from torch import nn

from models.backbones.resnet import ResNet
from models.backbones.tower import Tower
from models.backbones.transformer import LayerNorm, Linear
from models.peft import METHODS
from utils.errors import ModelError

AnyTower = TypeVar("AnyTower", bound=Tower)
OTHER_FORMATS = "export to onnx or torch, which support every method"


@torch.no_grad()
def folded(tower: AnyTower) -> AnyTower:
    """A copy of a tower in float32, its methods folded into plain weights. Equal in real arithmetic.

    Raises ModelError with the name of a method that computes more than a bare tower can, such as an adapter.
    """
    require_foldable([name for name, layers in getattr(tower, "attached", {}).items() if layers])
    tower = copy.deepcopy(tower).float()
    tower.set_precision(torch.float32)
    for block in tower.blocks:
        for parent in [module for module in block.modules() if not hasattr(module, "fold")]:
            for name, layer in list(parent.named_children()):
                setattr(parent, name, _plain(layer))
    if tower.kind == "resnet":
        _fold_after(cast(ResNet, tower))
    return tower.requires_grad_(False).eval()


def require_foldable(methods: list[str]) -> None:
    """Raises ModelError if one of these methods cannot be folded."""
    for name in methods:
        if not METHODS[name].folds:
            message = f"{name} adds layers or tokens to the backbone, so it cannot be merged into its weights"
            raise ModelError(f"{message}; {OTHER_FORMATS}", kind="unmergeable_method", key=name)


def _plain(layer: Any) -> Linear | LayerNorm:
    """The layer within its wrappers, with their formulas in its weight and bias, from the innermost one."""
    if not hasattr(layer, "fold"):
        return layer
    plain = _plain(layer.wrapped)
    _fold_into(plain, layer)
    return plain


def _fold_into(plain: Any, wrapper: Any) -> None:
    """Folds the formula of a wrapper into the weight and bias of the layer that it wraps."""
    weight, bias = wrapper.fold(plain.weight, plain.bias)
    plain.weight, plain.bias = nn.Parameter(weight), nn.Parameter(bias)


def _fold_after(tower: ResNet) -> None:
    """Folds SSF of the pooled feature into the attention pool's projection. Raises ModelError for a mean."""
    if isinstance(tower.after, nn.Identity):
        return
    if tower.last_linear is None:
        message = "ssf scales the mean of the feature map, and timm's ResNet has no weights for that"
        raise ModelError(f"{message}; {OTHER_FORMATS}", kind="unmergeable_method", key="ssf")
    _fold_into(tower.last_linear, tower.after)
    tower.after = nn.Identity()
