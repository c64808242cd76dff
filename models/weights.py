"""Weights of the backbones: where they are published, and how their names become ours.

Checkpoints are converted, not modules: a table of rename pairs turns the names of OpenAI, open_clip and timm into
ours, and the result is loaded strictly.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from models.backbone import Backbone, Geometry, ModelError
from models.text import VOCABULARY
from models.vit import HEAD_DIM
from models.weight_files import read_tensors

ASSETS = Path(__file__).resolve().parent.parent / "assets"
OPENAI_CACHE = Path("~/.cache/clip").expanduser()  # where openai-clip kept its downloads


class Source(NamedTuple):
    """Where a backbone's weights are published, and its sizes (so that it can be built without them)."""

    address: str  # asset:FILE, clip:MODEL (OpenAI's, through open_clip) or timm:MODEL.TAG
    geometry: Geometry


# dim, depth, patch, resolution, then of a CLIP: joint, text_dim, text_depth
BACKBONES = {
    "clip_vit_b32": Source("clip:ViT-B-32", Geometry(768, 12, 32, 224, 512, 512, 12)),
    "clip_vit_b16": Source("clip:ViT-B-16", Geometry(768, 12, 16, 224, 512, 512, 12)),
    "clip_vit_l14": Source("clip:ViT-L-14", Geometry(1024, 24, 14, 224, 768, 768, 12)),
    "clip_vit_l14@336px": Source("clip:ViT-L-14-336", Geometry(1024, 24, 14, 336, 768, 768, 12)),
    "in21k_vit_b16": Source("timm:vit_base_patch16_224.augreg2_in21k_ft_in1k", Geometry(768, 12, 16, 224)),
    "in21k_vit_b16@384px": Source("timm:vit_base_patch16_384.augreg_in21k_ft_in1k", Geometry(768, 12, 16, 384)),
    "in21k_vit_l16": Source("timm:vit_large_patch16_224.augreg_in21k_ft_in1k", Geometry(1024, 24, 16, 224)),
    "in21k_vit_l16@384px": Source("timm:vit_large_patch16_384.augreg_in21k_ft_in1k", Geometry(1024, 24, 16, 384)),
    "clip_tiny": Source("asset:clip_tiny.safetensors", Geometry(128, 6, 8, 32, 64, 64, 3)),
}

# Pairs (their prefix, our prefix); the first that fits counts.
OPENAI_NAMES = (
    ("visual.conv1.", "image.patch_embed."),
    ("visual.class_embedding", "image.class_token"),
    ("visual.positional_embedding", "image.positional_embedding"),
    ("visual.ln_pre.", "image.norm_pre."),
    ("visual.transformer.resblocks.", "image.blocks."),
    ("visual.ln_post.", "image.norm."),
    ("visual.proj", "image_projection"),
    ("token_embedding.", "text.token_embedding."),
    ("positional_embedding", "text.positional_embedding"),
    ("transformer.resblocks.", "text.blocks."),
    ("ln_final.", "text.norm."),
    ("text_projection", "text_projection"),
    ("logit_scale", "logit_scale"),
)
OPENAI_BLOCK_NAMES = (
    (".ln_1.", ".norm1."),
    (".attn.in_proj_", ".attn.qkv."),
    (".attn.out_proj.", ".attn.proj."),
    (".ln_2.", ".norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)
TIMM_NAMES = (
    ("patch_embed.proj.", "image.patch_embed."),
    ("cls_token", "image.class_token"),
    ("pos_embed", "image.positional_embedding"),
    ("blocks.", "image.blocks."),
    ("norm.", "image.norm."),
)
# In the files, but no part of the towers: OpenAI's notes of the sizes and its causal mask, timm's ImageNet classifier.
NOT_WEIGHTS = re.compile(r"(input_resolution|context_length|vocab_size|(.*\.)?attn_mask|head\.(weight|bias))")


def load_backbone(name: str, weights: str | None = None) -> tuple[Backbone, Path]:
    """The backbone `name` with its published weights, or those of `weights`, in float32; and the file they came from.

    `weights` is a local file, or the address of other published weights (timm:vit_base_patch16_224.augreg_in21k). The
    sizes are read from the tensors. Raises ModelError.
    """
    path = find_weights(weights or BACKBONES[name].address)
    state = to_our_names(read_tensors(path), path)
    if _is_clip(state) != BACKBONES[name].geometry.clip:
        kind = "a CLIP" if BACKBONES[name].geometry.clip else "a ViT without a text tower"
        raise ModelError(f"{name} is {kind}, but {path} holds the other kind; choose the backbone that fits the file")
    state = {key: value.float() for key, value in state.items()}
    with torch.device("meta"):
        backbone = Backbone(read_geometry(state, path))
    wanted = backbone.state_dict()
    shapes = {key: (tuple(value.shape), tuple(state[key].shape)) for key, value in wanted.items() if key in state}
    for problem, names in (
        ("lacks", sorted(wanted.keys() - state.keys())),
        ("has unexpected tensors:", sorted(state.keys() - wanted.keys())),
        ("has wrong shapes (needed, found):", [f"{k} {a} {b}" for k, (a, b) in shapes.items() if a != b]),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ModelError(f"{path} is no complete weight file for {name}: it {problem} {', '.join(names[:3])}{more}")
    backbone.load_state_dict(state, assign=True)
    return backbone, path


# ---- finding ----


def find_weights(address: str) -> Path:
    """The local file of an address (see Source), downloaded once if need be; a path is returned as it is."""
    kind, _, name = address.partition(":")
    if kind == "asset":
        return ASSETS / name
    if kind == "clip":
        return _find_openai(name)
    if kind == "timm":
        return _find_timm(name)
    path = Path(address).expanduser()
    if not path.is_file():
        raise ModelError(f"weights {address} is not a file; give the path of a weight file, or timm:MODEL.TAG")
    return path


def _find_openai(model: str) -> Path:
    from open_clip import download_pretrained, get_pretrained_cfg

    published = get_pretrained_cfg(model, "openai")
    if not published:
        raise ModelError(f"open_clip publishes no OpenAI weights for {model}")
    earlier = OPENAI_CACHE / Path(published["url"]).name
    if earlier.is_file():
        digest = hashlib.sha256(earlier.read_bytes()).hexdigest()
        if digest in published["url"]:  # OpenAI's address holds the file's checksum
            return earlier
    try:
        return Path(download_pretrained(published))
    except Exception as error:  # whatever the hub's client raises: offline, proxy, disk
        raise ModelError(_offline(f"CLIP {model}", published["url"], error)) from error


def _find_timm(model: str) -> Path:
    from huggingface_hub import hf_hub_download
    from timm.models import get_pretrained_cfg

    try:
        published = get_pretrained_cfg(model)
    except RuntimeError:  # a known model, an unknown tag
        published = None
    if published is None or not published.hf_hub_id:
        raise ModelError(f"timm publishes no weights named {model}; timm.list_pretrained('vit*') lists them")
    repository = published.hf_hub_id
    repository += "" if repository.rpartition("/")[2] else model
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # as above
        raise ModelError(_offline(model, f"{repository} (model.safetensors)", error)) from error


def _offline(what: str, where: str, error: Exception) -> str:
    return (
        f"the weights of {what} could not be downloaded ({type(error).__name__}: {error}); "
        f"fetch {where} on another machine and give its path: weights FILE"
    )


# ---- naming ----


def to_our_names(state: dict[str, Tensor], path: Path | str = "the file") -> dict[str, Tensor]:
    """A state dict in OpenAI's, open_clip's or timm's naming, in ours. Raises ModelError for another naming."""
    state = {name.removeprefix("module."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not NOT_WEIGHTS.fullmatch(name)}
    if any(name.startswith("visual.transformer.") for name in state):
        # open_clip's models with a separate text module have one prefix more
        state = {name.removeprefix("text."): value for name, value in state.items()}
        state = {_rename(name, OPENAI_NAMES, OPENAI_BLOCK_NAMES): value for name, value in state.items()}
        return _expand_vocabulary(state, path)
    if any(name.startswith("blocks.") for name in state):
        state = {_rename(name, TIMM_NAMES): value for name, value in state.items()}
        tokens = ("image.class_token", "image.positional_embedding")
        return {name: value.squeeze() if name in tokens else value for name, value in state.items()}
    raise ModelError(
        f"{path} has none of the known namings (OpenAI's or open_clip's CLIP ViT, timm's ViT); "
        f"its first tensors are {', '.join(sorted(state)[:3]) or 'none'}"
    )


def to_openai_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names in OpenAI's: the inverse of `to_our_names`, to publish a CLIP of ours."""

    def flip(pairs: tuple) -> tuple:
        return tuple((ours, theirs) for theirs, ours in pairs)

    return {_rename(name, flip(OPENAI_NAMES), flip(OPENAI_BLOCK_NAMES)): value for name, value in state.items()}


def _rename(name: str, prefixes: tuple, parts: tuple = ()) -> str:
    for theirs, ours in prefixes:
        if name.startswith(theirs):
            name = ours + name[len(theirs) :]
            for theirs, ours in parts if ".blocks." in name or ".resblocks." in name else ():
                name = name.replace(theirs, ours)
            return name
    return name


def _is_clip(state: dict[str, Tensor]) -> bool:
    return any(name.startswith("text.") for name in state)


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


def read_geometry(state: dict[str, Tensor], path: Path | str = "the file") -> Geometry:
    """The sizes of a backbone, read from its tensors (in our naming)."""

    def depth(tower: str) -> int:
        return 1 + max((int(name.split(".")[2]) for name in state if name.startswith(f"{tower}.blocks.")), default=-1)

    try:
        dim, _, patch, _ = state["image.patch_embed.weight"].shape
        side = (len(state["image.positional_embedding"]) - 1) ** 0.5
        sizes = {"dim": dim, "depth": depth("image"), "patch": patch, "resolution": round(side) * patch}
        if _is_clip(state):
            context, text_dim = state["text.positional_embedding"].shape
            joint = state["image_projection"].shape[1]
            sizes |= {"joint": joint, "text_dim": text_dim, "text_depth": depth("text"), "context": context}
    except KeyError as error:
        raise ModelError(f"{path} is no complete weight file: it lacks {error}") from error
    except (ValueError, IndexError) as error:
        raise ModelError(f"{path} has a tensor of the wrong shape: {error}") from error
    for width in (sizes["dim"], sizes.get("text_dim", 0)):
        if width > HEAD_DIM and width % HEAD_DIM:
            raise ModelError(
                f"{path}: a tower is {width} wide, which is no multiple of {HEAD_DIM}, the width of a head"
            )
    return Geometry(**sizes)
