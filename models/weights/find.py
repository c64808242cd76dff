"""Finds weight files: local ones, those of the repository, and published ones, which are downloaded once."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from models.weights import checksums, hub
from utils.config import addresses
from utils.config.suggestions import nearest_name
from utils.errors import ModelError
from utils.files import sha256
from utils.formats import FormatError, require_file
from utils.imports import submodule
from utils.text import listed, shortened

ASSETS = Path(__file__).resolve().parents[2] / "assets"
OPENAI_CACHE = Path(os.path.expanduser("~/.cache/clip"))  # the folder of openai-clip's downloads
SCHEMES = ("asset", "clip", *addresses.SCHEMES)
# files of a repository of the hub: its description, in the order of preference, and the weights that belong to it
OPEN_CLIP_JSON, TIMM_JSON = "open_clip_config.json", "config.json"
WEIGHTS_OF = {
    OPEN_CLIP_JSON: hub.alternatives("open_clip_pytorch_model.bin"),
    TIMM_JSON: ("model.safetensors", "pytorch_model.bin"),
}
CHECKSUM = re.compile(r"[/-]([0-9a-f]{8,64})(?:/[^/]*|\.\w+)$")  # in an address: /SHA-256/FILE, or FILE-BEGINNING.pt


class WeightFile(NamedTuple):
    """A local file of weights, verified if its checksum is known.

    record: the place of the checksum, written once the file has been loaded; None if the checksum is published, and for
    a file of the user. notes: for the log.
    """

    path: Path
    sha256: str
    record: checksums.Record | None = None
    notes: tuple[str, ...] = ()


def find_weights(address: str) -> WeightFile:
    """The local file of an address, downloaded once if needed, and verified; a path is returned unchanged.

    asset:FILE, clip:MODEL (OpenAI's, through open_clip), timm:MODEL.TAG, open_clip:MODEL/TAG, hf-hub:OWNER/NAME, or the
    path of a file. Raises ModelError.
    """
    kind, _, name = address.partition(":")
    if kind == "asset":
        path = _regular(ASSETS / name, address)
        return _verified(address, path, checksums.listed(path), remedy="restore the repository's file")
    if kind == "clip":
        return _find_openai(name, address)
    if kind == "timm":
        return _find_timm(name, address)
    if kind == "open_clip":
        return _find_open_clip(f"open_clip's {name}", open_clip_entry(name)[1], address)
    if kind == "hf-hub":
        return _find_on_hub(name, address)
    path = _regular(Path(os.path.expanduser(address)), address)
    return WeightFile(path, _sha256(path))


def is_missing_file(address: str | None) -> bool:
    """Whether an address is the path of a file that does not exist."""
    is_path = address is not None and address.partition(":")[0] not in SCHEMES
    return is_path and not os.path.lexists(os.path.expanduser(address or ""))


def _regular(path: Path, address: str) -> Path:
    """The path of a regular file. Raises ModelError for anything else, at once, as nothing is opened."""
    try:
        require_file(path)
    except FormatError as error:
        message, kind = f"weights {shortened(address)} {error}", "missing_file"
        if os.path.isfile(path):
            kind = "unreadable_weights"
        elif not os.path.lexists(path):
            message = (
                f"weights {shortened(address)} is not a file; "
                f"set the path of a weight file, or {', '.join(addresses.FORMS)}"
            )
        raise ModelError(message, kind=kind, path=path, key="weights") from error
    return path


def _sha256(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}); correct its permissions, or copy it"
        raise ModelError(message, kind="unreadable_weights", path=path, key="weights") from error


def _verified(address: str, path: Path, published: str, notes: tuple[str, ...] = (), remedy: str = "") -> WeightFile:
    """The published file of an address. Raises ModelError if its checksum is not the published or recorded one."""
    digest = _sha256(path)
    if published:
        checksums.verify(path, digest, published, remedy)
        return WeightFile(path, digest, notes=notes)
    record = checksums.Record(address, path)
    note = record.verify(path, digest)
    return WeightFile(path, digest, record, (*notes, note) if note else notes)


# ---- published files ----


def open_clip_entry(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """open_clip's configurations of MODEL and of its published weights TAG, for MODEL/TAG. Raises ModelError."""
    from open_clip import get_model_config, get_pretrained_cfg

    model, _, tag = name.partition("/")
    is_name = ":" not in name  # with a scheme, open_clip would search elsewhere
    config, published = (get_model_config(model), get_pretrained_cfg(model, tag)) if is_name else (None, None)
    if not config or not published:
        from open_clip import list_pretrained

        names = [f"{each}/{its_tag}" for each, its_tag in list_pretrained()]
        hint = _hint(name, [each for each in names if each.startswith(f"{model}/")], names)
        message = f"open_clip publishes no weights {shortened(name)}; {hint or 'open_clip.list_pretrained() lists all'}"
        raise ModelError(message, kind="unknown_weights", key="weights")
    return config, published


def openai_entry(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """open_clip's configurations of MODEL and of OpenAI's weights for it. Raises ModelError."""
    from open_clip import get_model_config

    return get_model_config(model), _openai_published(model)


def _openai_published(model: str) -> dict[str, Any]:
    """open_clip's configuration of OpenAI's weights for MODEL. Raises ModelError."""
    published = submodule("open_clip.pretrained").get_pretrained_cfg(model, "openai")
    if not published:
        message = f"open_clip publishes no OpenAI weights for {shortened(model)}"
        raise ModelError(message, kind="unknown_weights", key="weights")
    return published


def timm_entry(model: str) -> dict[str, Any]:
    """timm's pretrained_cfg of MODEL.TAG. Raises ModelError."""
    from timm.models import get_pretrained_cfg

    try:
        published = get_pretrained_cfg(model)
    except RuntimeError:  # a known model, an unknown tag
        published = None
    if published is None or not published.hf_hub_id:
        hint = _hint(model, _with_tags(model), _list_timm())
        message = (
            f"timm has no weights named {shortened(model)} on the hub; {hint or 'timm.list_pretrained() lists all'}"
        )
        raise ModelError(message, kind="unknown_weights", key="weights")
    return published.to_dict()


def without_tag(address: str) -> ModelError:
    """The error for timm:MODEL, whose weights would change with timm's default tag."""
    hint = _hint(address, _with_tags(address.partition(":")[2]), [])
    return ModelError(
        f"{shortened(address)} does not name its weights; {hint or 'write timm:MODEL.TAG'}",
        kind="no_tag",
        key="backbone",
    )


def _list_timm() -> list[str]:
    import timm

    return timm.list_pretrained()


def _with_tags(model: str) -> list[str]:
    """The names MODEL.TAG of a model of timm."""
    return [name for name in _list_timm() if name.partition(".")[0] == model.partition(".")[0]]


def _hint(name: str, of_model: list[str], names: list[str]) -> str:
    """The names of a model's weights, or the nearest name, as the end of a sentence; "" for neither."""
    if of_model:
        return f"there are {listed(of_model)}"
    nearest = nearest_name(name, names)
    return f"did you mean {nearest}?" if nearest else ""


def _find_openai(model: str, address: str) -> WeightFile:
    published = _openai_published(model)
    earlier = OPENAI_CACHE / Path(published["url"]).name
    notes: tuple[str, ...] = ()
    if earlier.is_file():
        digest = _sha256(earlier)
        if digest in published["url"]:  # OpenAI's address contains the file's checksum
            return WeightFile(earlier, digest)
        notes = (f"{earlier} is damaged or incomplete (its SHA-256 is not OpenAI's) and is not used; delete it",)
    return _find_open_clip(f"CLIP {model}", published, address, notes)


def _find_open_clip(name: str, published: dict[str, Any], address: str, notes: tuple[str, ...] = ()) -> WeightFile:
    url, on_hub = published.get("url", ""), published.get("hf_hub", "")
    repository, _, file = on_hub.rpartition("/")
    files = hub.alternatives(file or "open_clip_pytorch_model.bin")
    with _downloading(name, url or f"{repository} ({' or '.join(files)}, and its JSON files)", notes):
        if on_hub:
            path, published_sum = hub.fetch(repository, files)
        else:
            from open_clip import download_pretrained

            path, found = Path(download_pretrained(published)), CHECKSUM.search(url)
            published_sum = found[1] if found else ""
    return _verified(address, path, published_sum, notes)


def _find_timm(model: str, address: str) -> WeightFile:
    repository = timm_entry(model)["hf_hub_id"]
    repository += "" if repository.rpartition("/")[2] else model
    with _downloading(model, f"{repository} (model.safetensors and config.json)"):
        path, published_sum = hub.fetch(repository, ("model.safetensors",))
    return _verified(address, path, published_sum)


def find_description(address: str) -> Path:
    """The local JSON file that describes hf-hub:OWNER/NAME, downloaded if needed: open_clip's, or else timm's.

    A repository may have both, and another library's config.json. Raises ModelError if it has neither.
    """
    if problem := addresses.problem_of(address):
        raise ModelError(f"{shortened(address)} {problem}", kind="bad_address", key="weights")
    repository = address.partition(":")[2]
    files = f"{repository} ({OPEN_CLIP_JSON} or {TIMM_JSON}, and its weights)"
    # the address needs the hub's JSON even for a local file; a family reads the one beside the file
    with _downloading(repository, files, remedy="put both into one folder: -b clip_vit (or vit) weights FILE"):
        for file in WEIGHTS_OF:
            try:
                found = hub.fetch_file(repository, file)
            except ConnectionError:  # a copied repository does not record which files it lacks
                if (found := hub.cached(repository, TIMM_JSON)) is None:
                    raise
            if found is not None:
                return found
    message = (
        f"{repository} has neither open_clip's {OPEN_CLIP_JSON} nor timm's {TIMM_JSON}, so its architecture is not "
        "known; choose a repository of one of the two libraries, or download its weights and set weights FILE"
    )
    raise ModelError(message, kind="no_description", key="weights")


def _find_on_hub(repository: str, address: str) -> WeightFile:
    files = WEIGHTS_OF[find_description(address).name]
    with _downloading(repository, f"{repository} ({' or '.join(files)}, and its description)"):
        path, published_sum = hub.fetch(repository, files)
    return _verified(address, path, published_sum)


@contextlib.contextmanager
def _downloading(
    name: str, source: str, notes: tuple[str, ...] = (), remedy: str = "set its path: weights FILE"
) -> Iterator[None]:
    """Raises a ModelError if the download in the block fails.

    source: the files to fetch in another way. remedy: how to use them then.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # the clients raise errors of many types: offline, proxy, disk
        reason = shortened(str(error).strip().split("\n", 1)[0], 300)
        beside = f", and {notes[0]}" if notes else ""
        raise ModelError(
            f"the weights of {name} could not be downloaded ({type(error).__name__}: {reason}){beside}; "
            f"fetch {source} on another machine and {remedy}",
            kind="download_failed",
            key="weights",
        ) from error
