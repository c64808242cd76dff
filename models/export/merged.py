"""The backbone with a run's trained methods folded into its weights, as a model of timm or open_clip."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from models.backbones.backbone import Backbone
from models.backbones.tokenizer import class_prompts
from models.backbones.transformer import Zero
from models.export.comparison import Comparison, batches, compare_features
from models.heads.text_similarity import TextSimilarity, project
from models.heads.texts import TextEncoderFeatures
from models.model import Model
from models.peft.folding import folded, require_foldable
from models.weights.naming import invert
from models.weights.upstream import Upstream
from utils.files import atomic_write, write_text

HEAD = "head.safetensors"
PROJECTIONS = ("image_projection", "image_projection_bias", "text_projection", "text_projection_bias")
TEXTS = 8  # number of texts that are compared


@torch.no_grad()
def merge(model: Model, backbone: Backbone) -> Backbone:
    """The backbone of a run's model, float32 on the CPU, with its trained methods folded into plain weights.

    backbone: as published; the source of the modules that the model lacks. Raises ModelError for a method that cannot
    be folded, with its name.
    """
    merged = copy.deepcopy(backbone).cpu()
    merged.image = cast(Any, folded(model.tower).cpu())
    if isinstance(model.head, TextSimilarity):
        _merge_texts(merged, model.head)
    return merged.requires_grad_(False).eval()


def _merge_texts(merged: Backbone, head: TextSimilarity) -> None:
    """Puts the text tower and the projections of CLIP's own head into the backbone. Raises ModelError."""
    require_foldable([] if isinstance(head.image_adapter, Zero) else ["clip_adapter"])
    if isinstance(head.texts, TextEncoderFeatures):
        require_foldable([] if isinstance(head.texts.context, nn.Identity) else ["coop"])
        merged.text = folded(head.texts.tower).cpu()
    for name in PROJECTIONS:
        value = getattr(head, name)
        if value is not None:
            setattr(merged, name, nn.Parameter(value.detach().float().cpu()))


@torch.no_grad()
def head_tensors(head: nn.Module) -> dict[str, Tensor]:
    """The tensors of a head, float32: weight [C, D], and bias [C] and scale [] if it has them.

    CLIP's own head has the unit text features [C, joint] as weight, its scale, and as bias [] SigLIP's, or 0.
    """
    if isinstance(head, TextSimilarity):
        texts = project(head.texts(), head.text_projection, head.text_projection_bias)
        bias = head.logit_bias or 0.0
        tensors = {"weight": nn.functional.normalize(texts, dim=-1), "bias": torch.tensor(bias)}
        return _contiguous(tensors | {"scale": torch.tensor(head.scale)})
    scale = getattr(head, "scale", None)
    return _contiguous(head.state_dict() | ({} if scale is None else {"scale": torch.tensor(float(scale))}))


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().float().cpu().contiguous() for name, value in tensors.items()}


def write(
    merged: Backbone, head: nn.Module, upstream: Upstream, about: dict[str, Any], dtype: torch.dtype, folder: Path
) -> None:
    """Writes the weights in the library's naming, stored in `dtype`, its JSON `about`, and the head beside it.

    Raises ModelError if the library's module has no place for a tensor.
    """
    module = upstream.build()
    state = invert(merged.state_dict(), module.state_dict(), upstream.name)
    weights, description = upstream.files
    tensors = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    _save({name: value.contiguous() for name, value in tensors.items()}, folder / weights)
    _save(head_tensors(head), folder / HEAD)
    write_text(folder / description, json.dumps(about, indent=1) + "\n")


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    with atomic_write(path) as file:
        file.write(serialize(tensors, {"format": "pt"}))  # as timm and open_clip expect it


@torch.no_grad()
def compare(
    model: Model, backbone: Backbone, upstream: Upstream, folder: Path, images: Tensor, precision: str
) -> list[Comparison]:
    """The features of the written model, loaded strictly into the library's module, beside those of the run's.

    backbone: as published. images: uint8 [n, 3, R, R].
    """
    module: Any = upstream.build()
    state = load_file(folder / upstream.files[0])
    module.load_state_dict(state)  # strictly, and into float32

    # ---- images ----
    head = model.head if isinstance(model.head, TextSimilarity) else None
    source: Any = head or backbone
    encode = module.encode_image if upstream.library == "open_clip" else module
    found, expected = [], []
    for batch in batches(images):
        found.append(encode((batch.float() - model.mean.cpu()) / model.std.cpu()))
        features = model.features(batch.to(model.mean.device))
        if upstream.library == "open_clip":
            matrix, bias = (getattr(source, name) for name in PROJECTIONS[:2])
            features = project(features, *(None if x is None else x.to(features.device) for x in (matrix, bias)))
        expected.append(features.cpu())
    comparisons = [compare_features("image features", torch.cat(found), torch.cat(expected), precision)]

    # ---- texts, if the run trained them ----
    if head is not None and isinstance(head.texts, TextEncoderFeatures):
        tokens = backbone.tokenizer(class_prompts(head.texts.classnames[:TEXTS]))
        texts = project(head.texts(), head.text_projection, head.text_projection_bias)[:TEXTS].cpu()
        comparisons.append(compare_features("text features", module.encode_text(tokens), texts, precision))
    return comparisons
