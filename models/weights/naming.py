"""Converts the tensor names of published weight files to native ones, by tables of renames.

Checkpoints are converted, not modules: the upstream names of OpenAI, open_clip and timm are replaced, and the result is
loaded strictly (models/weights/load.py).
"""

import re
from pathlib import Path
from typing import NamedTuple, TypeAlias

from torch import Tensor

from models.backbones.tokenizer import VOCABULARY
from utils.errors import ModelError
from utils.text import listed, shortened

# (upstream prefix, native prefix, (upstream substring, native substring) pairs for the rest of the name)
Rename: TypeAlias = tuple[str, str, tuple[tuple[str, str], ...]]


class Naming(NamedTuple):
    """The upstream names of one kind of backbone."""

    kind: str  # in words
    prefix: str  # some tensors of this kind begin with it, and none of another kind
    renames: tuple[Rename, ...]  # the first with a matching prefix is applied


OPENAI_BLOCK = (
    (".ln_1.", ".norm1."),
    (".attn.in_proj_", ".attn.qkv."),
    (".attn.out_proj.", ".attn.proj."),
    (".ln_2.", ".norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)
OPENAI_TEXT: tuple[Rename, ...] = (
    ("token_embedding.", "text.token_embedding.", ()),
    ("positional_embedding", "text.positional_embedding", ()),
    ("transformer.resblocks.", "text.blocks.", OPENAI_BLOCK),
    ("ln_final.", "text.norm.", ()),
    ("text_projection", "text_projection", ()),
    ("logit_scale", "logit_scale", ()),
)
OPENAI_VIT: tuple[Rename, ...] = (
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
OPENAI_RESNET: tuple[Rename, ...] = (
    *((f"visual.conv{i}.", f"image.net.stem.conv{i}.conv.", ()) for i in (1, 2, 3)),
    *((f"visual.bn{i}.", f"image.net.stem.conv{i}.bn.", ()) for i in (1, 2, 3)),
    *((f"visual.layer{i + 1}.", f"image.net.stages.{i}.", OPENAI_BOTTLENECK) for i in (0, 1, 2, 3)),
    ("visual.attnpool.positional_embedding", "image.net.head.pos_embed", ()),
    *((f"visual.attnpool.{x}_proj.", f"image.net.head.{x}.", ()) for x in "qkv"),
    ("visual.attnpool.c_proj.", "image.net.head.proj.", ()),
)
TIMM_VIT: tuple[Rename, ...] = (
    ("patch_embed.proj.", "image.patch_embed.", ()),
    ("cls_token", "image.class_token", ()),
    ("pos_embed", "image.positional_embedding", ()),
    ("blocks.", "image.blocks.", ()),
    ("norm.", "image.norm.", ()),
)
TIMM_RESNET: tuple[Rename, ...] = (("", "image.net.", ()),)
NAMINGS = (
    Naming("OpenAI's or open_clip's CLIP ViT", "visual.transformer.", OPENAI_VIT + OPENAI_TEXT),
    Naming("OpenAI's or open_clip's CLIP ResNet", "visual.layer", OPENAI_RESNET + OPENAI_TEXT),
    Naming("timm's ViT", "blocks.", TIMM_VIT),
    Naming("timm's ResNet", "layer1.", TIMM_RESNET),
)
# In the files, but not part of the towers: OpenAI's records of sizes and its causal mask, timm's ImageNet classifiers,
# and BatchNorm's count of training steps.
NOT_WEIGHTS = re.compile(
    r"input_resolution|context_length|vocab_size|(.*\.)?attn_mask|(head|fc)\.(weight|bias)|.*\.num_batches_tracked"
)
# modules that training programs put around a backbone: data parallelism, torch.compile, Lightning, DINO, MoCo
WRAPPERS = (
    "module.", "_orig_mod.", "model.", "backbone.", "encoder.", "image_encoder.", "net.", "network.", "teacher.",
    "student.", "encoder_q.", "encoder_k.", "base_encoder.", "momentum_encoder.", "online_encoder.", "target_encoder.",
)  # fmt: skip
MAX_WRAPPERS = 4
# beside a wrapped backbone, the modules that its training needed
HEADS = ("head.", "fc.", "classifier.", "projector.", "predictor.", "projection_head.", "criterion.", "loss.")


def convert_state_dict(state: dict[str, Tensor], path: Path | str = "the file") -> dict[str, Tensor]:
    """Renames a state dict of OpenAI's, open_clip's or timm's naming. Raises ModelError for another naming."""
    state = unwrapped(state, path)
    state = {name: value for name, value in state.items() if not NOT_WEIGHTS.fullmatch(name)}
    naming = max(NAMINGS, key=lambda naming: sum(name.startswith(naming.prefix) for name in state))
    if not any(name.startswith(naming.prefix) for name in state):
        message = (
            f"{path} has none of the known namings ({', '.join(n.kind for n in NAMINGS)}); "
            f"its first tensors are {listed(sorted(state)) or 'none'}"
        )
        raise ModelError(message, kind="unknown_naming", path=path)
    if naming.prefix.startswith("visual."):
        # open_clip's models with a separate text module have one prefix more
        state = {rename(name.removeprefix("text."), naming.renames): value for name, value in state.items()}
        return _expand_vocabulary(state, path)
    state = {rename(name, naming.renames): value for name, value in state.items()}
    tokens = ("image.class_token", "image.positional_embedding")  # timm's have more dimensions, of size 1
    return {name: value.squeeze() if name in tokens else value for name, value in state.items()}


def unwrapped(state: dict[str, Tensor], path: Path | str = "the file") -> dict[str, Tensor]:
    """The tensors without the names of WRAPPERS around a known naming; HEADS beside a wrapped backbone are left out.

    Raises ModelError if the names do not decide what is wrapped.
    """
    state = _without_prefix(state, "module.", path)
    for _ in range(MAX_WRAPPERS):
        if any(_is_known(name) for name in state):
            return state
        wrappers = [wrapper for wrapper in WRAPPERS if any(_contains_known(name, wrapper) for name in state)]
        if not wrappers:
            return state
        if len(wrappers) > 1:
            message = f"{path} has several backbones, under {' and '.join(wrappers)}; save the tensors of one of them"
            raise ModelError(message, kind="several_backbones", path=path)
        state = {name: value for name, value in state.items() if not name.startswith(HEADS)}
        state = _without_prefix(state, wrappers[0], path)
    return state


def _is_known(name: str) -> bool:
    return name.startswith(tuple(naming.prefix for naming in NAMINGS))


def _contains_known(name: str, wrapper: str) -> bool:
    """Whether a name is one of a known naming, within `wrapper` and perhaps further ones."""
    for _ in range(MAX_WRAPPERS):
        if not name.startswith(wrapper):
            return False
        name = name.removeprefix(wrapper)
        if _is_known(name):
            return True
        wrapper = next((each for each in WRAPPERS if name.startswith(each)), "\0")
    return False


def _without_prefix(state: dict[str, Tensor], prefix: str, path: Path | str) -> dict[str, Tensor]:
    """The tensors without a prefix. Raises ModelError if two had one name then."""
    renamed = {name.removeprefix(prefix): value for name, value in state.items()}
    if len(renamed) < len(state):
        name = next(name for name in state if name.startswith(prefix) and name.removeprefix(prefix) in state)
        message = (
            f"{path} has {shortened(name)} and {shortened(name.removeprefix(prefix))}, two tensors of one name; "
            "save one backbone alone"
        )
        raise ModelError(message, kind="several_backbones", path=path)
    return renamed


def to_openai_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A native state dict of a CLIP in OpenAI's naming, to publish it: the inverse of `convert_state_dict`."""
    resnet = any(name.startswith("image.net.") for name in state)
    renames = tuple(
        (native, upstream, tuple((b, a) for a, b in rest))
        for upstream, native, rest in (OPENAI_RESNET if resnet else OPENAI_VIT) + OPENAI_TEXT
    )
    return {rename(name, renames): value for name, value in state.items()}


def rename(name: str, renames: tuple[Rename, ...]) -> str:
    """The name after the first of `renames` whose prefix it has."""
    for old, new, rest in renames:
        if name.startswith(old):
            name = new + name[len(old) :]
            for old_substring, new_substring in rest:
                name = name.replace(old_substring, new_substring)
            return name
    return name


def _expand_vocabulary(state: dict[str, Tensor], path: Path | str) -> dict[str, Tensor]:
    """Expands a reduced vocabulary: `token_ids` has the token of each embedding row in the file; others become 0."""
    if "token_ids" not in state:
        return state
    try:
        ids, rows = state.pop("token_ids").long(), state["text.token_embedding.weight"]
        state["text.token_embedding.weight"] = rows.new_zeros(VOCABULARY, rows.shape[1]).index_copy(0, ids, rows)
    except (KeyError, IndexError, RuntimeError) as error:
        raise ModelError(
            f"{path}: its token_ids do not fit its token_embedding ({error})", kind="bad_vocabulary", path=path
        ) from error
    return state
