"""A /dev/shm of a given size for this process only, as in containers."""

import ctypes
import os

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000  # sched.h
MS_REC, MS_PRIVATE = 0x4000, 1 << 18  # sys/mount.h


def mount_small_shm(size: int) -> None:
    """Mounts a tmpfs of `size` bytes on /dev/shm in a new mount namespace. Raises OSError if that is forbidden.

    It is allowed for root, or if users may create namespaces.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(function, *arguments) -> None:
        if function(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    call(libc.unshare, CLONE_NEWNS if os.geteuid() == 0 else CLONE_NEWNS | CLONE_NEWUSER)
    call(libc.mount, b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    call(libc.mount, b"tmpfs", b"/dev/shm", b"tmpfs", 0, f"size={size}".encode())


def is_possible() -> bool:
    """Whether this machine allows it, tried in a child process."""
    child = os.fork()
    if child == 0:
        try:
            mount_small_shm(1 << 20)
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
