"""Files of the Hugging Face hub: from its cache without network, else downloaded; fails quickly when offline."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from models.weights.checksums import is_sha256
from utils.errors import ModelError

REFUSALS = (401, 403)  # HTTP's Unauthorized, and Forbidden
NAME_SECONDS = 5.0  # for the look-up of the hub's address, which has no limit of its own


def alternatives(file: str) -> tuple[str, ...]:
    """The names under which a repository may have a file, the safest format first, as open_clip chooses."""
    if file == "open_clip_pytorch_model.bin":
        return "open_clip_model.safetensors", file
    stem, dot, suffix = file.rpartition(".")
    return (f"{stem}.safetensors", file) if dot and suffix in ("bin", "pth") else (file,)


def fetch(repository: str, files: Sequence[str]) -> tuple[Path, str]:
    """The local path of the first of `files` that is in the cache, or else in the repository; and its checksum.

    The checksum is the SHA-256 that the hub publishes for large files, "" if it is not known. Raises ConnectionError
    if the hub does not answer, ModelError if it has no such repository for this user or the repository has none of the
    files, and the errors of its client.
    """
    from huggingface_hub import hf_hub_download

    for file in files:
        if (path := cached(repository, file)) is not None:
            return path, of_cached(path)
    with _refusals(repository):
        for file in files:
            if (etag := _ask(repository, file)) is not None:
                return Path(hf_hub_download(repository, file)), etag if is_sha256(etag) else ""
    message = f"{repository} has no {' or '.join(files)}; choose another repository, or set weights FILE"
    raise ModelError(message, kind="no_weights", key="weights")


def fetch_file(repository: str, file: str) -> Path | None:
    """The local path of a file, from the cache or downloaded; None if the repository lacks it.

    The client's cache also records missing files, so the hub is asked once. Raises the errors of `fetch`.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if _look_up(repository, file) is not None:
        return cached(repository, file)
    with _refusals(repository):
        _ask(repository, file)  # fails quickly without an answer
        try:
            return Path(hf_hub_download(repository, file))
        except LocalEntryNotFoundError:  # of the class below, for a connection that broke
            raise
        except EntryNotFoundError:
            return None


def of_cached(path: Path) -> str:
    """The checksum that the hub publishes for a file in its cache; "" if the cache does not have it.

    A snapshot's file is a link to blobs/SHA-256 if it is large (Git LFS). Caches without links and small files lack it.
    """
    try:
        target = path.readlink()
    except OSError:  # not a link
        return ""
    return target.name if target.parent.name == "blobs" and is_sha256(target.name) else ""


def cached(repository: str, file: str) -> Path | None:
    """A file in the cache of the hub's client; None if it is not there, or the cache is damaged."""
    found = _look_up(repository, file)
    return Path(found) if isinstance(found, str) else None


def _look_up(repository: str, file: str) -> Any:
    """The entry of the client's cache: a path, its constant for a file that the repository lacks, or None."""
    from huggingface_hub import try_to_load_from_cache

    try:
        return try_to_load_from_cache(repository, file)
    except (OSError, ValueError):
        return None


def _ask(repository: str, file: str) -> str | None:
    """The ETag of a file on the hub, "" if unknown; None if the repository lacks the file.

    The hub is asked once, while its client would retry for minutes. Raises ConnectionError if it cannot be reached, and
    the client's error if it refuses. Other errors are left to the download, which reports them.
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
    except HfHubHTTPError as error:
        if _status(error) in REFUSALS:
            raise
        return ""
    except Exception as error:  # of the HTTP library, which differs between versions of the client
        reason = str(error) or type(error).__name__
        raise ConnectionError(f"{constants.ENDPOINT} does not answer: {reason}") from error
    return found.etag or ""


@contextlib.contextmanager
def _refusals(repository: str) -> Iterator[None]:
    """Raises a ModelError if the hub refuses a repository: it is gated, private, or does not exist."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    page, other = f"{constants.ENDPOINT}/{repository}", "download its files elsewhere and set weights FILE"
    token = "set HF_TOKEN to your token (or log in with the hub's client)"
    try:
        yield
    except GatedRepoError as error:
        message = f"{repository} is gated; accept its licence at {page}, then {token}, or {other}"
        raise ModelError(message, kind="gated_repository", key="weights") from error
    except RepositoryNotFoundError as error:
        message = f"the hub has no public repository {repository}; correct the name, or if {page} is private, {token}"
        raise ModelError(message, kind="unknown_repository", key="weights") from error
    except HfHubHTTPError as error:
        if _status(error) not in REFUSALS:
            raise
        message = (
            f"the hub refuses access to {repository} (HTTP {_status(error)}); check that HF_TOKEN is valid and may "
            f"read {page}, or {other}"
        )
        raise ModelError(message, kind="no_access", key="weights") from error


def _status(error: Any) -> int | None:
    """The HTTP status of an error of the client; None without an answer."""
    return getattr(error.response, "status_code", None)


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
