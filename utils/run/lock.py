"""The lock of a run directory, on its open log file: for one process at a time, and released when it ends.

A forked process inherits open files, and with them the lock: a worker that outlives its parent by a second would block
the same command. So forked processes release it at once.
"""

import fcntl
import os
import weakref
from typing import TextIO

_held: "weakref.WeakSet[TextIO]" = weakref.WeakSet()


def lock(file: TextIO) -> bool:
    """Locks an open file; False if another process holds it. On a file system without locks nothing is locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    _held.add(file)
    return True


def _release_in_child() -> None:
    """Replaces the locked files by /dev/null. A lock ends when the last descriptor of its file is closed."""
    files = [file for file in _held if not file.closed]
    if files:
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        for file in files:
            os.dup2(null, file.fileno(), inheritable=False)
        os.close(null)


os.register_at_fork(after_in_child=_release_in_child)
