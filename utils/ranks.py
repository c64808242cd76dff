"""The processes of a run, from the environment variables that torchrun or a Slurm script sets."""

import os
from typing import NamedTuple

from utils.errors import ConfigError

RANKS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
MEETING = ("MASTER_ADDR", "MASTER_PORT")  # the rendezvous
UNSET = "unset " + " ".join((*RANKS, *MEETING))


class Processes(NamedTuple):
    """This process has `rank` among `size` processes; `local_rank` and `local_size` are those on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def read_processes() -> Processes:
    """The processes according to the environment: one, unless WORLD_SIZE is above 1.

    Raises a ConfigError for incomplete or contradictory variables, as an earlier job may leave them: a run would wait
    for processes that nobody has started, or write nothing as rank 3.
    """
    found = {name: os.environ[name] for name in RANKS if os.environ.get(name)}
    if not found.keys() & {"WORLD_SIZE", "RANK"}:
        return Processes()
    rank, size = (_number(name, found) for name in ("RANK", "WORLD_SIZE"))
    if size == 1 and rank in (0, None):
        return Processes()
    if rank is None or size is None or not 0 <= rank < size:
        raise _refusal(found, "that does not number the processes of a run from 0 to WORLD_SIZE - 1")
    local_rank, local_size = _number("LOCAL_RANK", found), _number("LOCAL_WORLD_SIZE", found)
    processes = Processes(rank, size, local_rank or 0, 1 if local_size is None else local_size)
    if not 0 <= processes.local_rank <= rank or not 1 <= processes.local_size <= size:
        raise _refusal(found, "that does not number the processes of this machine")
    return processes


def num_processes() -> int:
    """The number of processes of this run. Raises ConfigError."""
    return read_processes().size


def require_meeting_point() -> None:
    """Raises a ConfigError unless MASTER_ADDR and MASTER_PORT are set, as required for several processes."""
    found = {name: os.environ.get(name, "") for name in (*RANKS, *MEETING)}
    port = found["MASTER_PORT"]
    is_port = port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 2**16
    if not found["MASTER_ADDR"].strip() or not is_port:
        wrong = "MASTER_ADDR and MASTER_PORT, at which they meet, are not both set to an address and a port"
        raise _refusal({name: value for name, value in found.items() if value}, wrong)


def _number(name: str, found: dict[str, str]) -> int | None:
    """The value of a variable; None if it is not set. Raises ConfigError."""
    text = found.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise _refusal(found, f"{name} is not a whole number")
    return int(text)


def _refusal(found: dict[str, str], wrong: str) -> ConfigError:
    pairs = " ".join(f"{name}={value[:40]}" for name, value in found.items())
    message = (
        f"the environment has {pairs}, and {wrong}; if an earlier job has left these behind, {UNSET}; "
        "else start the run with torchrun (docs/scale.md)"
    )
    return ConfigError(message, kind="wrong_processes", key=None)
