"""A GPU without a GPU: torch's FakeTensorMode has tensors on "cuda" with shapes, types and devices, but no numbers.

It computes the form of an operation's result, and raises an error if tensors of two devices meet, or if a number is
read (`item`, `tolist`, `if tensor`, `x[mask]`), which on a GPU would wait for the queue. torch needs neither a driver
nor a CUDA build for it.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.backbones.backbone import Backbone
from models.backbones.resnet import ResNetConfig
from models.backbones.tokenizer import VOCABULARY
from models.model import Model
from models.peft import HEAD_METHODS, METHODS
from models.weights.descriptions import describe_name

SIDE, PATCH, DIM = 32, 8, 32  # of the small towers: pixels of an image and of a patch, width
HALF = (0.5, 0.5, 0.5)
NAMES = ["cat", "dog", "frog"]
# a published backbone of each family, built in small
FAMILIES = {
    "CLIP ViT": "clip_vit_b16",
    "CLIP ResNet": "clip_rn50",
    "timm ViT": "in21k_vit_b16",
    "timm ResNet": "in1k_rn50",
    "SigLIP 2": "siglip2_vit_b16",
    "DINOv2, registers": "dinov2_reg_vit_b14",
    "DINOv3": "dinov3_vit_b16",
    "EVA-02": "eva02_vit_b16",
    "PE-Core": "pe_core_vit_b16",
}


@contextlib.contextmanager
def fake_gpu(*modules: nn.Module) -> Iterator[None]:
    """A block in which `modules` are on a GPU: their parameters and buffers, but no other attributes."""
    mode = FakeTensorMode()
    for module in modules:
        move(module, mode)
    with contextlib.ExitStack() as block:
        # torch.autocast and GradScaler switch themselves off where there is no GPU
        block.enter_context(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        block.enter_context(mock.patch("torch.cuda.is_bf16_supported", lambda *_, **__: True))
        block.enter_context(mode)
        yield


def move(module: nn.Module, mode: FakeTensorMode) -> None:
    """Moves a module to the GPU, as `module.to("cuda")` does, which torch refuses for fake tensors."""
    moved: dict[Tensor, Tensor] = {}  # a parameter of two modules stays one

    def on_gpu(tensor: Tensor) -> Tensor:
        if tensor not in moved:
            value = mode.from_tensor(tensor.detach())
            with mode:
                value = value.to("cuda")
            moved[tensor] = nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
        return moved[tensor]

    for part in module.modules():
        for table in (part._parameters, part._buffers):
            table.update({name: on_gpu(tensor) for name, tensor in table.items() if tensor is not None})


def pixels(count: int, side: int = SIDE) -> Tensor:
    """Images before normalisation, uint8 [count, 3, side, side], on the GPU of the block."""
    return torch.zeros(count, 3, side, side, dtype=torch.uint8, device="cuda")


def labels(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64, device="cuda")


def small_backbone(family: str, depth: int = 1, vocabulary: int = 64) -> Backbone:
    """The published backbone of a family with small towers, few words and random weights."""
    known = describe_name(FAMILIES[family]).config
    assert known is not None
    image, text = known.image, known.text
    if isinstance(image, ResNetConfig):
        image = dataclasses.replace(image, stages=(1, 1, 1, 1), width=8, joint=64 if image.joint else 0, resolution=64)
    else:
        pooling = dataclasses.replace(image.pooling, heads=2, hidden=DIM)
        image = dataclasses.replace(image, dim=DIM, depth=depth, patch=PATCH, resolution=SIDE, heads=2, pooling=pooling)
        image = dataclasses.replace(image, hidden=48 if image.hidden else None)
    if text is not None:
        text = dataclasses.replace(text, dim=DIM, depth=1, heads=2, hidden=48 if text.hidden else None)
        text = dataclasses.replace(text, vocabulary=vocabulary, tokenizer="", activation=text.activation or "gelu")
    joint = image.dim if known.joint and not known.image_projection else 64 if known.joint else 0
    backbone = Backbone(dataclasses.replace(known, image=image, text=text, joint=joint))
    backbone.mean, backbone.std = HALF, HALF
    return backbone.requires_grad_(False)


def small_model(
    family: str = "CLIP ViT", head: str | None = "CosineClassifier", depth: int = 1, **options: Any
) -> Model:
    """A model of that backbone for three classes, before it is moved; see Model.create."""
    backbone = small_backbone(family, depth, VOCABULARY if head is None else 64)
    return Model.create(backbone, NAMES, head, **{"head_init": None, **options})


# every method with small options, and how its model is built
SMALL: dict[str, dict[str, Any]] = {"pt": {"len": 2}, "aft": {"ratio": 0.5}, "coop": {"ctx_len": 2}}
SMALL |= {name: {"dim": 2} for name in ("lora", "lora_mlp", "adapter", "adaptformer", "clip_adapter")}


def model_with(method: str) -> Model:
    """A small model with only this method, on a backbone that supports it, with the head that it needs."""
    family = "CLIP ResNet" if METHODS[method].targets == ("resnet",) else "CLIP ViT"
    head = None if method in HEAD_METHODS else "CosineClassifier"
    return small_model(family, head, methods={method: SMALL.get(method, {})})
