"""Modules of timm as descriptions of their architecture: built without memory."""

from typing import Any

import torch

from models.backbones.families.features import require
from utils.errors import ModelError
from utils.text import shortened

# timm's files, and the classes there whose towers are described by models/backbones/families
TRANSFORMERS = {"vision_transformer": "VisionTransformer", "deit": "VisionTransformer", "eva": "Eva"}
RESNETS = {"resnet": "ResNet"}


def build_module(name: str, kinds: dict[str, str], options: dict[str, Any]) -> Any:
    """timm's module of an architecture, on the meta device. Raises ModelError unless it is one of `kinds`."""
    import timm  # heavy: imported where it is used

    if not timm.is_model(name):
        message = f"its architecture {shortened(name)} is unknown to timm {timm.__version__}; install a later timm"
        raise ModelError(f"{message}, or choose another model", kind="unsupported_feature")
    file = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    require(file in kinds, f"a tower of timm's kind {file}")
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, **options)
    require(type(model).__name__ == kinds[file], f"a tower of timm's kind {type(model).__name__}")
    return model
