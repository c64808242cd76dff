"""Converts checkpoints of LIFT+ itself (arXiv 2504.13282) to native tensor names.

Native names are converted to upstream ones, so that only the tensors that the model needs are read from a file.
"""

import re
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models.backbones.tower import Tower
from models.peft.aft import PartlyTrainedLinear
from models.weights.naming import to_openai_names
from utils.errors import ModelError

# (native name, upstream name), as regular expressions; the first that matches is applied
BLOCK_NAMES = (  # in a block
    (r"side\.(.+)", r"adaptformer.\1"),
    (r"mlp\.(adapter\..+)", r"mlp.\1"),
    (r"attn\.qkv\.([qv])\.(down|up)\.weight", r"attn.lora.\1.\2"),
    (r"prompt\.tokens", "prompt"),
    (r"(norm[12])\.(weight|bias)", r"\1_\2"),
    *(
        pair
        for native, part, place in (
            (r"attn\.qkv", "attn", "in_proj"),
            (r"attn\.proj", "attn", "out_proj"),
            (r"mlp\.fc1", "mlp", "in_proj"),
            (r"mlp\.fc2", "mlp", "out_proj"),
        )
        for pair in (
            (native + r"\.(scale|shift)", rf"{part}.ssf.{place}.\1"),
            (native + r"\.(weight|bias)\.values", rf"{part}.aft.{place}.masked_\1.optimized_params"),
            (native + r"\.(weight|bias)", rf"{part}_{place}_\1"),
        )
    ),
)
NAMES = (  # elsewhere
    (r"tower\.after\.(scale|shift)", r"image_encoder.ssf.\1"),
    (r"head\.texts\.context\.vectors", "text_encoder.ctx"),
    (r"head\.((?:image|text)_adapter\..+)", r"\1"),
    (r"head\.(image|text)_projection", r"\1_proj"),
    (r"head\.(weight|bias)", r"classifier.\1"),
)


def lift_plus_name(name: str, stages: Sequence[int] = ()) -> str:
    """LIFT+'s name of the trainable tensor `name`; stages: for a ResNet, the number of blocks of each."""
    if name.startswith("tower.net."):
        published = published_name(name.removeprefix("tower."))
        inside = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", published)
        if inside is None:  # LIFT+ trains nothing outside the stages
            return name
        number = sum(stages[: int(inside[1]) - 1]) + int(inside[2])  # counted through all stages
        return f"image_encoder.blocks.{number}_{inside[3].replace('.', '_')}"
    block = re.fullmatch(r"(head\.texts\.)?tower\.blocks\.(\d+)\.(.+)", name.replace(".wrapped", ""))
    if block is None:
        return _first(name, NAMES)
    encoder = "text_encoder" if block[1] else "image_encoder"
    return f"{encoder}.blocks.{block[2]}.{_first(block[3], BLOCK_NAMES)}"


def published_name(name: str) -> str:
    """OpenAI's (in CLIP's form) or timm's name of a ResNet's tensor net.*, without a prefix for the tower."""
    published = next(iter(to_openai_names({f"image.{name}": torch.empty(0)})))
    return re.sub(r"^(visual|image\.net)\.", "", published)


def _first(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    for native, upstream in pairs:
        if re.fullmatch(native, name):
            return re.sub(native, upstream, name)
    return name


def convert_lift_plus_checkpoint(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a LIFT+ checkpoint under native names; a tensor that `model` lacks is named "LIFT+'s NAME".

    Low-rank matrices are transposed (LIFT+'s multiply from the right), and arbitrary fine-tuning adopts the mask of the
    file. Raises ModelError for a mask that does not fit.
    """
    state = dict(state)
    tower = cast(Tower, model.get_submodule("tower"))
    stages = [len(list(stage.children())) for stage in tower.stages] if tower.kind == "resnet" else []
    for name, module in model.named_modules():
        if isinstance(module, PartlyTrainedLinear):
            for kind in ("weight", "bias"):
                values = lift_plus_name(f"{name}.{kind}.values")
                _take_mask(module, kind, state, values.replace("optimized_params", "mask"))
    native = {}
    for name, parameter in model.named_parameters():
        upstream = lift_plus_name(name, stages)
        if parameter.requires_grad and upstream in state:
            tensor = state.pop(upstream)
            if ".lora." in upstream:
                tensor = tensor.T
            native[name] = tensor.reshape(()) if parameter.ndim == 0 and tensor.numel() == 1 else tensor
    return native | {f"LIFT+'s {name}": tensor for name, tensor in state.items()}


def _take_mask(module: PartlyTrainedLinear, kind: str, state: dict[str, Tensor], name: str) -> None:
    tensor = getattr(module.wrapped, kind)
    mask = state.pop(name, None)
    if mask is None or mask.shape != tensor.shape:
        found = "none" if mask is None else f"one of {list(mask.shape)}"
        raise ModelError(
            f"the LIFT+ checkpoint needs a mask {name} of {list(tensor.shape)}, found {found}", kind="wrong_mask"
        )
    getattr(module, kind).choose(tensor, mask.flatten().nonzero().flatten())
