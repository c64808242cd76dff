"""Checkpoints of LIFT+ itself (arXiv 2504.13282): what its tensors are called, and how they become ours.

Each of our names is turned into theirs, so that nothing of a file is taken but what the model needs by name.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.backbones.resnet import ResNet
from models.peft.aft import PartlyTrainedLinear
from models.weights.naming import to_openai_names
from utils.errors import ModelError

# (our name, their name), as regular expressions; the first that fits counts
BLOCK_NAMES = (  # of what stands in a block
    (r"side\.(.+)", r"adaptformer.\1"),
    (r"mlp\.(adapter\..+)", r"mlp.\1"),
    (r"attn\.qkv\.([qv])\.(down|up)\.weight", r"attn.lora.\1.\2"),
    (r"prompt\.tokens", "prompt"),
    (r"(norm[12])\.(weight|bias)", r"\1_\2"),
    *(
        pair
        for ours, part, place in (
            (r"attn\.qkv", "attn", "in_proj"),
            (r"attn\.proj", "attn", "out_proj"),
            (r"mlp\.fc1", "mlp", "in_proj"),
            (r"mlp\.fc2", "mlp", "out_proj"),
        )
        for pair in (
            (ours + r"\.(scale|shift)", rf"{part}.ssf.{place}.\1"),
            (ours + r"\.(weight|bias)\.values", rf"{part}.aft.{place}.masked_\1.optimized_params"),
            (ours + r"\.(weight|bias)", rf"{part}_{place}_\1"),
        )
    ),
)
NAMES = (  # of the rest
    (r"tower\.after\.(scale|shift)", r"image_encoder.ssf.\1"),
    (r"head\.texts\.context\.vectors", "text_encoder.ctx"),
    (r"head\.((?:image|text)_adapter\..+)", r"\1"),
    (r"head\.(image|text)_projection", r"\1_proj"),
    (r"head\.(weight|bias)", r"classifier.\1"),
)


def lift_plus_name(name: str, stages: Sequence[int] = ()) -> str:
    """What LIFT+ calls our trained tensor `name`; stages: of a ResNet, the numbers of their blocks."""
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
    """What OpenAI (in CLIP's form) or timm calls our ResNet's tensor `name`, net.*; without a prefix of the tower."""
    published = next(iter(to_openai_names({f"image.{name}": torch.empty(0)})))
    return re.sub(r"^(visual|image\.net)\.", "", published)


def _first(name: str, pairs: tuple) -> str:
    for ours, theirs in pairs:
        if re.fullmatch(ours, name):
            return re.sub(ours, theirs, name)
    return name


def from_lift_plus(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a LIFT+ checkpoint under our names; those without a place in `model` are marked.

    A low-rank matrix is turned over (theirs multiply from the right), and arbitrary fine-tuning takes over the mask of
    the file. Raises ModelError for a mask that does not fit.
    """
    state = dict(state)
    stages = [len(stage) for stage in model.tower.stages] if isinstance(model.tower, ResNet) else []
    for name, module in model.named_modules():
        if isinstance(module, PartlyTrainedLinear):
            for kind in ("weight", "bias"):
                values = lift_plus_name(f"{name}.{kind}.values")
                _take_mask(module, kind, state, values.replace("optimized_params", "mask"))
    ours = {}
    for name, parameter in model.named_parameters():
        theirs = lift_plus_name(name, stages)
        if parameter.requires_grad and theirs in state:
            tensor = state.pop(theirs)
            if ".lora." in theirs:
                tensor = tensor.T
            ours[name] = tensor.reshape(()) if parameter.ndim == 0 and tensor.numel() == 1 else tensor
    return ours | {f"LIFT+'s {name}": tensor for name, tensor in state.items()}


def _take_mask(module: PartlyTrainedLinear, kind: str, state: dict[str, Tensor], name: str) -> None:
    tensor = getattr(module.wrapped, kind)
    mask = state.pop(name, None)
    if mask is None or mask.shape != tensor.shape:
        found = "none" if mask is None else f"one of {list(mask.shape)}"
        raise ModelError(f"the LIFT+ checkpoint needs a mask {name} of {list(tensor.shape)}, found {found}")
    getattr(module, kind).choose(tensor, mask.flatten().nonzero().flatten())
