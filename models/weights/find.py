"""Finds weight files: local ones, those of the repository, and published ones, which are downloaded once."""

import os
from pathlib import Path
from typing import Any

from utils.errors import ModelError
from utils.files import sha256

ASSETS = Path(__file__).resolve().parents[2] / "assets"
OPENAI_CACHE = Path(os.path.expanduser("~/.cache/clip"))  # where openai-clip kept its downloads
SCHEMES = ("asset", "clip", "timm", "open_clip")


def find_weights(address: str) -> Path:
    """The local file of an address, downloaded once if need be; a path is returned as it is. Raises ModelError.

    asset:FILE, clip:MODEL (OpenAI's, through open_clip), timm:MODEL.TAG, open_clip:MODEL/TAG, or the path of a file.
    """
    kind, _, name = address.partition(":")
    if kind == "asset":
        return ASSETS / name
    if kind == "clip":
        return _find_openai(name)
    if kind == "timm":
        return _find_timm(name)
    if kind == "open_clip":
        return _download_open_clip(f"open_clip's {name}", open_clip_entry(name)[1])
    path = Path(os.path.expanduser(address))  # leaves ~ as it is where nobody knows a home
    if not path.is_file():
        message = (
            f"weights {address} is not a file; give the path of a weight file, or timm:MODEL.TAG, open_clip:MODEL/TAG"
        )
        raise ModelError(message, kind="missing_file", path=path, key="weights")
    return path


def open_clip_entry(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """open_clip's configurations of MODEL and of its published weights TAG, for MODEL/TAG. Raises ModelError."""
    from open_clip import get_model_config, get_pretrained_cfg

    model, _, tag = name.partition("/")
    listed = ":" not in name  # with a scheme, open_clip would look elsewhere
    config, published = (get_model_config(model), get_pretrained_cfg(model, tag)) if listed else (None, None)
    if not config or not published:
        message = (
            f"open_clip publishes no weights {name}; write open_clip:MODEL/TAG, open_clip.list_pretrained() lists all"
        )
        raise ModelError(message, kind="unknown_weights", key="weights")
    return config, published


def timm_entry(model: str) -> dict[str, Any]:
    """timm's pretrained_cfg of MODEL.TAG. Raises ModelError."""
    from timm.models import get_pretrained_cfg

    try:
        published = get_pretrained_cfg(model)
    except RuntimeError:  # a known model, an unknown tag
        published = None
    if published is None or not published.hf_hub_id:
        message = f"timm has no weights named {model} on the hub; timm.list_pretrained() lists all names"
        raise ModelError(message, kind="unknown_weights", key="weights")
    return published.to_dict()


def _find_openai(model: str) -> Path:
    from open_clip import get_pretrained_cfg

    published = get_pretrained_cfg(model, "openai")
    if not published:
        raise ModelError(f"open_clip publishes no OpenAI weights for {model}", kind="unknown_weights", key="weights")
    earlier = OPENAI_CACHE / Path(published["url"]).name
    if earlier.is_file() and sha256(earlier) in published["url"]:  # OpenAI's address contains the file's checksum
        return earlier
    return _download_open_clip(f"CLIP {model}", published)


def _download_open_clip(name: str, published: dict[str, Any]) -> Path:
    from open_clip import download_pretrained

    try:
        return Path(download_pretrained(published))
    except Exception as error:  # the hub's client raises errors of many types: offline, proxy, disk
        raise _download_error(name, published["url"] or published["hf_hub"], error) from error


def _find_timm(model: str) -> Path:
    from huggingface_hub import hf_hub_download

    repository = timm_entry(model)["hf_hub_id"]
    repository += "" if repository.rpartition("/")[2] else model
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # as above
        files = f"{repository} (model.safetensors and config.json)"
        raise _download_error(model, files, error) from error


def _download_error(name: str, source: str, error: Exception) -> ModelError:
    return ModelError(
        f"the weights of {name} could not be downloaded ({type(error).__name__}: {error}); "
        f"fetch {source} on another machine and give its path: weights FILE",
        kind="download_failed",
        key="weights",
    )
