"""How the names in published weight files become ours: tables of rename pairs.

Checkpoints are converted, not modules: what OpenAI, open_clip and timm call a tensor is renamed, and the result is
loaded strictly (models/weights.py).
"""

import re
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from models.backbones.tokenizer import VOCABULARY
from utils.errors import ModelError


class Naming(NamedTuple):
    """One way to name the tensors of one kind of backbone."""

    kind: str  # in words
    mark: str  # tensors of this kind begin with it, and none of another kind
    pairs: tuple  # (their prefix, our prefix, pairs (their part, our part) of what follows); the first that fits counts


OPENAI_BLOCK = (
    (".ln_1.", ".norm1."),
    (".attn.in_proj_", ".attn.qkv."),
    (".attn.out_proj.", ".attn.proj."),
    (".ln_2.", ".norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)
OPENAI_TEXT = (
    ("token_embedding.", "text.token_embedding.", ()),
    ("positional_embedding", "text.positional_embedding", ()),
    ("transformer.resblocks.", "text.blocks.", OPENAI_BLOCK),
    ("ln_final.", "text.norm.", ()),
    ("text_projection", "text_projection", ()),
    ("logit_scale", "logit_scale", ()),
)
OPENAI_VIT = (
    ("visual.conv1.", "image.patch_embed.", ()),
    ("visual.class_embedding", "image.class_token", ()),
    ("visual.positional_embedding", "image.positional_embedding", ()),
    ("visual.ln_pre.", "image.norm_pre.", ()),
    ("visual.transformer.resblocks.", "image.blocks.", OPENAI_BLOCK),
    ("visual.ln_post.", "image.norm.", ()),
    ("visual.proj", "image_projection", ()),
)
OPENAI_BOTTLENECK = (
    (".conv1.", ".conv1_1x1.conv."),
    (".bn1.", ".conv1_1x1.bn."),
    (".conv2.", ".conv2_kxk.conv."),
    (".bn2.", ".conv2_kxk.bn."),
    (".conv3.", ".conv3_1x1.conv."),
    (".bn3.", ".conv3_1x1.bn."),
    (".downsample.0.", ".shortcut.conv.conv."),  # the average pool before it, "-1", has no tensors
    (".downsample.1.", ".shortcut.conv.bn."),
)
OPENAI_RESNET = (
    *((f"visual.conv{i}.", f"image.net.stem.conv{i}.conv.", ()) for i in (1, 2, 3)),
    *((f"visual.bn{i}.", f"image.net.stem.conv{i}.bn.", ()) for i in (1, 2, 3)),
    *((f"visual.layer{i + 1}.", f"image.net.stages.{i}.", OPENAI_BOTTLENECK) for i in (0, 1, 2, 3)),
    ("visual.attnpool.positional_embedding", "image.net.head.pos_embed", ()),
    *((f"visual.attnpool.{x}_proj.", f"image.net.head.{x}.", ()) for x in "qkv"),
    ("visual.attnpool.c_proj.", "image.net.head.proj.", ()),
)
TIMM_VIT = (
    ("patch_embed.proj.", "image.patch_embed.", ()),
    ("cls_token", "image.class_token", ()),
    ("pos_embed", "image.positional_embedding", ()),
    ("blocks.", "image.blocks.", ()),
    ("norm.", "image.norm.", ()),
)
TIMM_RESNET = (("", "image.net.", ()),)
NAMINGS = (
    Naming("OpenAI's or open_clip's CLIP ViT", "visual.transformer.", OPENAI_VIT + OPENAI_TEXT),
    Naming("OpenAI's or open_clip's CLIP ResNet", "visual.layer", OPENAI_RESNET + OPENAI_TEXT),
    Naming("timm's ViT", "blocks.", TIMM_VIT),
    Naming("timm's ResNet", "layer1.", TIMM_RESNET),
)
# In the files, but no part of the towers: OpenAI's notes of the sizes and its causal mask, timm's ImageNet classifiers,
# and BatchNorm's count of training steps.
NOT_WEIGHTS = re.compile(
    r"input_resolution|context_length|vocab_size|(.*\.)?attn_mask|(head|fc)\.(weight|bias)|.*\.num_batches_tracked"
)


def to_our_names(state: dict[str, Tensor], path: Path | str = "the file") -> dict[str, Tensor]:
    """A state dict in OpenAI's, open_clip's or timm's naming, in ours. Raises ModelError for another naming."""
    state = {name.removeprefix("module."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not NOT_WEIGHTS.fullmatch(name)}
    naming = max(NAMINGS, key=lambda naming: sum(name.startswith(naming.mark) for name in state))
    if not any(name.startswith(naming.mark) for name in state):
        raise ModelError(
            f"{path} has none of the known namings ({', '.join(n.kind for n in NAMINGS)}); "
            f"its first tensors are {', '.join(sorted(state)[:3]) or 'none'}"
        )
    if naming.mark.startswith("visual."):
        # open_clip's models with a separate text module have one prefix more
        state = {_rename(name.removeprefix("text."), naming.pairs): value for name, value in state.items()}
        return _expand_vocabulary(state, path)
    state = {_rename(name, naming.pairs): value for name, value in state.items()}
    tokens = ("image.class_token", "image.positional_embedding")  # timm's have more dimensions, of size 1
    return {name: value.squeeze() if name in tokens else value for name, value in state.items()}


def to_openai_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names in OpenAI's: the inverse of `to_our_names`, to publish a CLIP of ours."""
    theirs = (OPENAI_RESNET if any(name.startswith("image.net.") for name in state) else OPENAI_VIT) + OPENAI_TEXT
    pairs = tuple((new, old, tuple((b, a) for a, b in parts)) for old, new, parts in theirs)
    return {_rename(name, pairs): value for name, value in state.items()}


def _rename(name: str, pairs: tuple) -> str:
    for old, new, parts in pairs:
        if name.startswith(old):
            name = new + name[len(old) :]
            for part, new_part in parts:
                name = name.replace(part, new_part)
            return name
    return name


def _expand_vocabulary(state: dict[str, Tensor], path: Path | str) -> dict[str, Tensor]:
    """Undoes a reduced vocabulary: `token_ids` [rows] names the embedding rows that the file kept; others become 0."""
    if "token_ids" not in state:
        return state
    try:
        ids, rows = state.pop("token_ids").long(), state["text.token_embedding.weight"]
        state["text.token_embedding.weight"] = rows.new_zeros(VOCABULARY, rows.shape[1]).index_copy(0, ids, rows)
    except (KeyError, IndexError, RuntimeError) as error:
        raise ModelError(f"{path}: its token_ids do not fit its token_embedding ({error})") from error
    return state
