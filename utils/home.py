"""A home directory and a user's name for processes without them, as in containers: docker run --user 12345."""

import os
import pwd
import stat
import tempfile
from pathlib import Path


def find_home() -> Path | None:
    """The user's home directory; None if neither HOME nor the user database has one."""
    home = os.path.expanduser("~")
    return Path(home) if os.path.isabs(home) else None


def ensure_home() -> None:
    """Sets HOME and USER for this process and its children if the system has no values for them.

    Without HOME other packages fail, or write their caches to a folder named ~. HOME becomes a private folder in the
    one for temporary files.
    """
    if find_home() is None:
        os.environ["HOME"] = str(_substitute())
    names = ("LOGNAME", "USER", "LNAME", "USERNAME")  # as in getpass.getuser
    if not any(os.environ.get(name) for name in names):
        try:
            pwd.getpwuid(os.getuid())
        except KeyError:
            os.environ["USER"] = str(os.getuid())


def _substitute() -> Path:
    """A folder that only this user can write to; a new one each time if its name belongs to another user."""
    try:
        path = Path(tempfile.gettempdir(), f"lift_plus_home_{os.getuid()}")
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            status = path.lstat()
            is_private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
            if not is_private:
                return Path(tempfile.mkdtemp(prefix="lift_plus_home_"))
    except OSError:
        return Path("/nonexistent")  # every cache is skipped with a warning
    return path
