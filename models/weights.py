"""Weights of the backbones: where they are published, what sizes they have, and how they are loaded, strictly."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from models.backbone import Backbone, Geometry, ModelError
from models.naming import to_our_names
from models.resnet import CHANNEL_MULTIPLE, STRIDE
from models.vit import HEAD_DIM
from models.weight_files import read_tensors

ASSETS = Path(__file__).resolve().parent.parent / "assets"
OPENAI_CACHE = Path("~/.cache/clip").expanduser()  # where openai-clip kept its downloads


class Source(NamedTuple):
    """Where a backbone's weights are published, and its sizes (so that it can be built without them)."""

    address: str  # asset:FILE, clip:MODEL (OpenAI's, through open_clip) or timm:MODEL.TAG
    geometry: Geometry


RESNET_RESOLUTION = 224  # a mean over the feature map takes any size, so the tensors do not tell
R50, R101, R152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)  # blocks of the four stages (He et al. 2016, table 1)
# dim, depth, patch, resolution, then of a CLIP: joint, text_dim, text_depth, then of a ResNet: stages, width
BACKBONES = {
    "clip_vit_b32": Source("clip:ViT-B-32", Geometry(768, 12, 32, 224, 512, 512, 12)),
    "clip_vit_b16": Source("clip:ViT-B-16", Geometry(768, 12, 16, 224, 512, 512, 12)),
    "clip_vit_l14": Source("clip:ViT-L-14", Geometry(1024, 24, 14, 224, 768, 768, 12)),
    "clip_vit_l14@336px": Source("clip:ViT-L-14-336", Geometry(1024, 24, 14, 336, 768, 768, 12)),
    "clip_rn50": Source("clip:RN50", Geometry(1024, 16, 32, 224, 1024, 512, 12, stages=R50, width=64)),
    "clip_rn101": Source("clip:RN101", Geometry(512, 33, 32, 224, 512, 512, 12, stages=R101, width=64)),
    "in21k_vit_b16": Source("timm:vit_base_patch16_224.augreg2_in21k_ft_in1k", Geometry(768, 12, 16, 224)),
    "in21k_vit_b16@384px": Source("timm:vit_base_patch16_384.augreg_in21k_ft_in1k", Geometry(768, 12, 16, 384)),
    "in21k_vit_l16": Source("timm:vit_large_patch16_224.augreg_in21k_ft_in1k", Geometry(1024, 24, 16, 224)),
    "in21k_vit_l16@384px": Source("timm:vit_large_patch16_384.augreg_in21k_ft_in1k", Geometry(1024, 24, 16, 384)),
    "in1k_rn50": Source("timm:resnet50.a1_in1k", Geometry(2048, 16, 32, 224, stages=R50, width=64)),
    "in1k_rn101": Source("timm:resnet101.a1h_in1k", Geometry(2048, 33, 32, 224, stages=R101, width=64)),
    "in1k_rn152": Source("timm:resnet152.a1h_in1k", Geometry(2048, 50, 32, 224, stages=R152, width=64)),
    "clip_tiny": Source("asset:clip_tiny.safetensors", Geometry(128, 6, 8, 32, 64, 64, 3)),
}


def load_backbone(name: str, weights: str | None = None) -> tuple[Backbone, Path]:
    """The backbone `name` with its published weights, or those of `weights`, in float32; and the file they came from.

    `weights` is a local file, or the address of other published weights (timm:vit_base_patch16_224.augreg_in21k). The
    sizes are read from the tensors. Raises ModelError.
    """
    path = find_weights(weights or BACKBONES[name].address)
    state = {key: value.float() for key, value in to_our_names(read_tensors(path), path).items()}
    geometry, family = read_geometry(state, path), BACKBONES[name].geometry.family
    if geometry.family != family:
        raise ModelError(
            f"{name} is a {family}, but {path} holds a {geometry.family}; choose the backbone that fits the file"
        )
    with torch.device("meta"):
        backbone = Backbone(geometry)
    wanted = backbone.state_dict()
    # BatchNorm's counts of training steps: in no use with fixed statistics, and not in every file
    counts = {key for key in wanted if key.endswith(".num_batches_tracked")}
    _check(state, {key: value for key, value in wanted.items() if key not in counts}, path, name)
    backbone.load_state_dict(state | {key: torch.tensor(0) for key in counts}, assign=True)
    return backbone, path


def _check(state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path, name: str) -> None:
    """Raises ModelError, which names the tensors, unless `state` has exactly the names and shapes of `wanted`."""
    shapes = {key: (tuple(value.shape), tuple(state[key].shape)) for key, value in wanted.items() if key in state}
    for problem, names in (
        ("lacks", sorted(wanted.keys() - state.keys())),
        ("has unexpected tensors:", sorted(state.keys() - wanted.keys())),
        ("has wrong shapes (needed, found):", [f"{k} {a} {b}" for k, (a, b) in shapes.items() if a != b]),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ModelError(f"{path} is no complete weight file for {name}: it {problem} {', '.join(names[:3])}{more}")


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
        raise ModelError(f"timm publishes no weights named {model}; timm.list_pretrained() lists all")
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


# ---- sizes ----


def read_geometry(state: dict[str, Tensor], path: Path | str = "the file") -> Geometry:
    """The sizes of a backbone, read from its tensors (in our naming)."""
    clip, resnet = (any(name.startswith(prefix) for name in state) for prefix in ("text.", "image.net."))
    try:
        sizes = (_clip_resnet if clip else _resnet)(state) if resnet else _vit(state)
        if clip:
            context, text_dim = state["text.positional_embedding"].shape
            joint = sizes["dim"] if resnet else state["image_projection"].shape[1]
            depth = _count(state, "text.blocks.")
            sizes |= {"joint": joint, "text_dim": text_dim, "text_depth": depth, "context": context}
    except KeyError as error:
        raise ModelError(f"{path} is no complete weight file: it lacks {error}") from error
    except (ValueError, IndexError, TypeError) as error:
        raise ModelError(f"{path} has a tensor of the wrong shape: {error}") from error
    for width in (0 if resnet else sizes["dim"], sizes.get("text_dim", 0)):
        if width > HEAD_DIM and width % HEAD_DIM:
            raise ModelError(
                f"{path}: a tower is {width} wide, which is no multiple of {HEAD_DIM}, the width of a head"
            )
    if clip and resnet and sizes["width"] % CHANNEL_MULTIPLE:
        raise ModelError(
            f"{path}: the first stage is {sizes['width']} channels wide, which is no multiple of {CHANNEL_MULTIPLE}"
        )
    return Geometry(**sizes)


def _vit(state: dict[str, Tensor]) -> dict:
    dim, _, patch, _ = state["image.patch_embed.weight"].shape
    side = (len(state["image.positional_embedding"]) - 1) ** 0.5
    return {"dim": dim, "depth": _count(state, "image.blocks."), "patch": patch, "resolution": round(side) * patch}


def _clip_resnet(state: dict[str, Tensor]) -> dict:
    stages = tuple(_count(state, f"image.net.stages.{i}.") for i in (0, 1, 2, 3))
    width = len(state["image.net.stages.0.0.conv1_1x1.conv.weight"])
    dim = len(state["image.net.head.proj.weight"])
    side = (len(state["image.net.head.pos_embed"]) - 1) ** 0.5
    sizes = {"dim": dim, "depth": sum(stages), "patch": STRIDE, "resolution": round(side) * STRIDE}
    return sizes | {"stages": stages, "width": width}


def _resnet(state: dict[str, Tensor]) -> dict:
    stages = tuple(_count(state, f"image.net.layer{i}.") for i in (1, 2, 3, 4))
    width = len(state["image.net.layer1.0.conv1.weight"])
    sizes = {"dim": 32 * width, "depth": sum(stages), "patch": STRIDE, "resolution": RESNET_RESOLUTION}
    return sizes | {"stages": stages, "width": width}


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """The number of blocks `prefix`0, `prefix`1, ... Raises KeyError for none."""
    numbers = [name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)]
    blocks = [int(number) for number in numbers if number.isdecimal()]
    if not blocks:
        raise KeyError(f"{prefix}0")
    return 1 + max(blocks)
