"""ImageError, and Problem, which the decoders raise: an ImageError without the path."""

import errno

from utils.errors import DataError

FIND = "find all such with scripts/check_data.py and leave them out with bad_images skip"
ADVICE = f"replace it, or {FIND}"


class ImageError(DataError):
    """An image that cannot be read; `reason` is the message without path and advice."""

    reason: str = ""


class Problem(Exception):
    """The reason why an image cannot be read, and the remedy; the path is added later."""

    def __init__(self, kind: str, problem: str, advice: str, reason: str = ""):
        super().__init__(problem)
        self.kind, self.problem, self.advice, self.reason = kind, problem, advice, reason or problem

    def error(self, path: str) -> ImageError:
        """The error for the image at `path`."""
        error = ImageError(f"the image {path} {self.problem}; {self.advice}", kind=self.kind, path=path)
        error.reason = self.reason
        return error


def undecodable(reason: str, advice: str = "replace it") -> Problem:
    """The problem of a file that is damaged, or not a picture."""
    return Problem("undecodable_image", f"cannot be decoded ({reason})", f"{advice}, or {FIND}", reason)


def unsupported(problem: str, advice: str = "save it with 8 bits, as RGB or grey") -> Problem:
    """The problem of an intact picture whose kind of pixels is not supported; `problem` begins with a verb."""
    return Problem("unsupported_pixels", problem, f"{advice}, or {FIND}", f"{problem}; {advice}")


def damaged(error: Exception) -> Problem:
    """The problem of a file that a decoder refuses with `error`."""
    problem = undecodable(" ".join(str(error).split()) or type(error).__name__)
    problem.__cause__ = error
    return problem


def trouble(error: OSError) -> Problem:
    """The problem of a file that cannot be opened."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return Problem("missing_image", "is missing", f"restore it, or {ADVICE}")
    if isinstance(error, IsADirectoryError):
        return Problem("folder_as_image", "is a folder", "remove it from the list, or replace it with the picture")
    reason = f"({error.strerror})"
    if isinstance(error, PermissionError):
        advice = "make it readable (chmod +r, and +x for its folders)"
        return Problem("unreadable_image", f"may not be read {reason}", advice)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        advice = "raise the limit (ulimit -n), or set num_workers lower"
        return Problem("too_many_open_files", f"cannot be opened {reason}", advice)
    return Problem("unreadable_image", f"cannot be read {reason}", "check the disk, or replace the file")
