"""Files of the Hugging Face hub: from its cache without any network, else downloaded; offline it fails soon."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.weights.checksums import is_sha256

NAME_SECONDS = 5.0  # for the look-up of the hub's address, which has no limit of its own


def alternatives(file: str) -> tuple[str, ...]:
    """The names under which a repository may have a file, the safest format first, as open_clip chooses."""
    if file == "open_clip_pytorch_model.bin":
        return "open_clip_model.safetensors", file
    stem, dot, suffix = file.rpartition(".")
    return (f"{stem}.safetensors", file) if dot and suffix in ("bin", "pth") else (file,)


def fetch(repository: str, files: Sequence[str]) -> tuple[Path, str]:
    """The local path of the first of `files` that is in the cache, or else that the repository has; and its checksum.

    The checksum is the SHA-256 that the hub publishes for large files, "" where it is not known. Raises ConnectionError
    if the hub does not answer, and the errors of its client.
    """
    from huggingface_hub import hf_hub_download

    for file in files:
        if (path := _cached(repository, file)) is not None:
            return path, of_cached(path)
    for file in files:
        if (etag := _ask(repository, file)) is not None:
            return Path(hf_hub_download(repository, file)), etag if is_sha256(etag) else ""
    return Path(hf_hub_download(repository, files[-1])), ""  # which raises the client's error


def of_cached(path: Path) -> str:
    """The checksum that the hub publishes for a file in its cache; "" where the cache does not have it.

    A snapshot's file is a link to blobs/SHA-256 if it is large (Git LFS). Caches without links and small files lack it.
    """
    try:
        target = path.readlink()
    except OSError:  # not a link
        return ""
    return target.name if target.parent.name == "blobs" and is_sha256(target.name) else ""


def _cached(repository: str, file: str) -> Path | None:
    """A file in the cache of the hub's client; None if it is not there, or the cache is damaged."""
    from huggingface_hub import try_to_load_from_cache

    try:
        path = try_to_load_from_cache(repository, file)
    except (OSError, ValueError):
        return None
    return Path(path) if isinstance(path, str) else None


def _ask(repository: str, file: str) -> str | None:
    """The hub's mark of a file's content (ETag), "" if unknown; None if the repository lacks the file.

    The hub is asked once, where its client would try for minutes. Raises ConnectionError if it cannot be reached. Other
    refusals are left to the download, which has words for them.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    url, limit = hf_hub_url(repository, file), constants.HF_HUB_ETAG_TIMEOUT
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set, and the file is not in the hub's cache")
    try:
        found = _within(limit + NAME_SECONDS, lambda: get_hf_file_metadata(url, timeout=limit))
    except EntryNotFoundError:
        return None
    except HfHubHTTPError:
        return ""
    except Exception as error:  # of the HTTP library, which differs between versions of the client
        reason = str(error) or type(error).__name__
        raise ConnectionError(f"{constants.ENDPOINT} does not answer: {reason}") from error
    return found.etag or ""


def _within(seconds: float, function: Callable[[], Any]) -> Any:
    """The result of a function, called in a thread. Raises its error, or TimeoutError, leaving the thread behind."""
    results: list[Any] = []
    errors: list[Exception] = []

    def call() -> None:
        try:
            results.append(function())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer in {seconds:.0f} seconds")
    return results[0]
