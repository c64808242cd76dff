"""Finds weight files: local ones, those of the repository, and published ones, downloaded once."""

from pathlib import Path
from typing import Any

from utils.errors import ModelError
from utils.files import sha256

ASSETS = Path(__file__).resolve().parents[2] / "assets"
OPENAI_CACHE = Path("~/.cache/clip").expanduser()  # where openai-clip kept its downloads
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
    path = Path(address).expanduser()
    if not path.is_file():
        raise ModelError(
            f"weights {address} is not a file; give the path of a weight file, or timm:MODEL.TAG, open_clip:MODEL/TAG"
        )
    return path


def open_clip_entry(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """open_clip's configuration of MODEL and what it publishes as TAG, of MODEL/TAG. Raises ModelError."""
    from open_clip import get_model_config, get_pretrained_cfg

    model, _, tag = name.partition("/")
    listed = ":" not in name  # with a scheme, open_clip would look elsewhere
    config, published = (get_model_config(model), get_pretrained_cfg(model, tag)) if listed else (None, None)
    if not config or not published:
        raise ModelError(
            f"open_clip publishes no weights {name}; write open_clip:MODEL/TAG, open_clip.list_pretrained() lists all"
        )
    return config, published


def timm_entry(model: str) -> dict[str, Any]:
    """What timm publishes as MODEL.TAG: its pretrained_cfg. Raises ModelError."""
    from timm.models import get_pretrained_cfg

    try:
        published = get_pretrained_cfg(model)
    except RuntimeError:  # a known model, an unknown tag
        published = None
    if published is None or not published.hf_hub_id:
        raise ModelError(f"timm has no weights named {model} on the hub; timm.list_pretrained() lists all names")
    return published.to_dict()


def _find_openai(model: str) -> Path:
    from open_clip import get_pretrained_cfg

    published = get_pretrained_cfg(model, "openai")
    if not published:
        raise ModelError(f"open_clip publishes no OpenAI weights for {model}")
    earlier = OPENAI_CACHE / Path(published["url"]).name
    if earlier.is_file() and sha256(earlier) in published["url"]:  # OpenAI's address holds the file's checksum
        return earlier
    return _download_open_clip(f"CLIP {model}", published)


def _download_open_clip(what: str, published: dict[str, Any]) -> Path:
    from open_clip import download_pretrained

    try:
        return Path(download_pretrained(published))
    except Exception as error:  # whatever the hub's client raises: offline, proxy, disk
        raise ModelError(_offline(what, published["url"] or published["hf_hub"], error)) from error


def _find_timm(model: str) -> Path:
    from huggingface_hub import hf_hub_download

    repository = timm_entry(model)["hf_hub_id"]
    repository += "" if repository.rpartition("/")[2] else model
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # as above
        files = f"{repository} (model.safetensors and config.json)"
        raise ModelError(_offline(model, files, error)) from error


def _offline(what: str, where: str, error: Exception) -> str:
    return (
        f"the weights of {what} could not be downloaded ({type(error).__name__}: {error}); "
        f"fetch {where} on another machine and give its path: weights FILE"
    )
