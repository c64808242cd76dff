"""The client of the fork server: starts attempts, waits for them, and inspects their files."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import fork_server
from faults.operations import Fault, Operation
from faults.server import ROOT

LIMIT = 60.0  # seconds; an attempt that takes longer hangs


class Hang(AssertionError):
    """Raised if an attempt does not end."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How an attempt ended: its exit status, -N for signal N, its output, and its largest memory in bytes.

    operations, fault_done: of a traced one that was not killed.
    """

    status: int
    out: str
    err: str
    max_rss: int
    seconds: float
    operations: list[Operation]
    fault_done: bool

    def __str__(self) -> str:
        return f"status {self.status}, stderr: {self.err.strip() or '-'}"


class Server:
    """A fork server (server.py). `start` and `run` accept the fields of its Request."""

    def __init__(self, folder: Path, limit: float = LIMIT):
        self.folder, self.limit = folder, limit
        ours, theirs = socket.socketpair()
        environment = dict(os.environ) | {
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONUNBUFFERED": "",
        }
        for name in ("DEBUG", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
            environment.pop(name, None)
        self.errors = open(folder / "server.txt", "w+b")  # noqa: SIM115 (closed in close)
        self.process = fork_server.start(["-m", "faults.server"], folder, environment, theirs, self.errors, self.errors)
        theirs.close()
        self.socket = ours
        self.lines = ours.makefile("r")
        self.ended: dict[int, dict[str, Any]] = {}
        self.count = 0
        self._answer(0)

    def close(self) -> None:
        """Ends the server and every attempt that still runs."""
        self.lines.close()
        self.socket.close()
        self.process.wait()
        self.errors.close()

    def start(self, arguments: list[Any], folder: Path, fault: Fault | None = None, **request: Any) -> "Attempt":
        """Starts `python main.py ARGUMENTS` in a folder that also has the user's cache; environment: more variables."""
        self.count += 1
        environment = {"XDG_CACHE_HOME": str(folder / "cache")} | request.pop("environment", {})
        content = {
            "arguments": [str(argument) for argument in arguments],
            "folder": str(folder),
            "output": str(self.folder / str(self.count)),
            "environment": environment,
            "fault": fault and dataclasses.asdict(fault),
            **request,
        }
        self.socket.sendall((json.dumps(content) + "\n").encode())
        process = self._answer(0)["process"]
        return Attempt(self, process, content["output"])

    def run(self, arguments: list[Any], folder: Path, fault: Fault | None = None, **request: Any) -> Outcome:
        """Starts an attempt and waits for its end."""
        return self.start(arguments, folder, fault, **request).wait()

    def learn(self, arguments: list[Any], folder: Path, **request: Any) -> Outcome:
        """Runs a command, and lets the server import the same modules."""
        outcome = self.run(arguments, folder, scout=True, **request)
        self.socket.sendall((json.dumps({"learn": str(folder)}) + "\n").encode())
        self._answer(0)
        return outcome

    def _answer(self, process: int) -> dict[str, Any]:
        """The next answer that is not an end, or with a process its end. Raises Hang after the limit."""
        self.socket.settimeout(self.limit)
        while process not in self.ended or not process:
            try:
                line = self.lines.readline()
            except TimeoutError:
                raise Hang(f"no answer after {self.limit:.0f} s") from None
            assert line, f"the fork server ended: {Path(self.errors.name).read_text()}"
            content = json.loads(line)
            if "status" not in content:
                return content
            self.ended[content["process"]] = content
        return self.ended.pop(process)


class Attempt:
    """A run that was started. Its process leads a session, by which its workers are found."""

    def __init__(self, server: Server, process: int, output: str):
        self.server, self.process, self.output, self.started = server, process, output, time.monotonic()

    @property
    def running(self) -> bool:
        """Whether the process itself has not ended."""
        return os.path.exists(f"/proc/{self.process}")

    def signal(self, number: int, group: bool = False) -> None:
        """Sends a signal to the process, or to all of its group; one that has ended gets none."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process, number)

    def wait(self, seconds: float | None = None) -> Outcome:
        """Waits for the end. Raises Hang after `seconds` (None: the server's limit), and kills all processes."""
        former, self.server.limit = self.server.limit, seconds or self.server.limit
        try:
            ended = self.server._answer(self.process)
        except Hang:
            self.signal(signal.SIGUSR2)  # prints the stacks of its threads
            time.sleep(0.5)
            _, err = self.texts()
            for process in processes(self.process):
                os.kill(process, signal.SIGKILL)
            # a reader that timed out cannot be used again
            self.server.lines = self.server.socket.makefile("r")
            self.server._answer(self.process)
            raise Hang(f"it did not end within {self.server.limit:.0f} s; stderr: {err or '-'}") from None
        finally:
            self.server.limit = former
        content = {"operations": [], "done": False}
        with contextlib.suppress(FileNotFoundError):
            content = json.loads(Path(f"{self.output}.trace").read_text())
        out, err = self.texts()
        for kind in ("out", "err", "trace"):
            Path(f"{self.output}.{kind}").unlink(missing_ok=True)
        assert ended["status"] != 99, f"a fault of the harness: {err}"
        return Outcome(
            ended["status"],
            out,
            err,
            ended["max_rss"],
            time.monotonic() - self.started,
            [Operation(*operation) for operation in content["operations"]],
            content["done"],
        )

    def texts(self) -> tuple[str, str]:
        """Its output so far, stdout and stderr."""
        files = [Path(f"{self.output}.{kind}") for kind in ("out", "err")]
        return tuple(file.read_text(errors="surrogateescape") if file.exists() else "" for file in files)


def processes(session: int) -> list[int]:
    """The processes of a session that run, among them those whose parent has ended."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError):
            state, _, _, leader = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:4]
            if int(leader) == session and state not in "ZX":
                found.append(int(name))
    return found


def wait_for(condition, seconds: float, what: str) -> None:
    """Waits until condition() is true. Raises Hang with `what` otherwise."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Hang(f"{what} after {seconds:g} s")
        time.sleep(0.005)
