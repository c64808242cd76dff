"""Detects training images that were replaced while a run was interrupted."""

import numpy as np

from datasets.images import Images
from utils.errors import DataError
from utils.text import visible


def require_same_images(images: Images, now: np.ndarray, then: np.ndarray) -> str | None:
    """Compares the states of files, int64 [n, 3], with those when the run began: see Images.states.

    Returns a sentence for the log if only times of change differ, None if nothing does. Raises a DataError with the
    first file of another size or content.
    """
    if now.shape != then.shape:  # other images: their fingerprint differs
        return None
    (sizes, times, hashes), (sizes_then, times_then, hashes_then) = now.T, then.T
    other_content = (hashes != hashes_then) & (hashes != 0) & (hashes_then != 0)
    replaced = np.flatnonzero((sizes != sizes_then) | other_content)
    if len(replaced):
        first = int(replaced[0])
        differs = (
            f"{_in_words(int(sizes[first]))}, and had {_in_words(int(sizes_then[first]))} when the run began"
            if sizes[first] != sizes_then[first]
            else "another content than when the run began"
        )
        more = f" ({len(replaced):,} training images are)" if len(replaced) > 1 else ""
        path = images.paths[first]
        message = f"{path} was replaced while the run was interrupted{more}: it has {differs}; restore it"
        raise DataError(message, kind="image_replaced", path=path)
    touched = np.flatnonzero(times != times_then)
    if len(touched):
        first_path = visible(images.paths[touched[0]])
        return (
            f"{len(touched):,} training images have another time of change than when the run began, and the same size "
            f"(the first is {first_path})"
        )
    return None


def _in_words(size: int) -> str:
    return "no file" if size < 0 else f"{size:,} bytes"
