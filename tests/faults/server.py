"""A process that imports the program once, and forks a child for each attempt to run it.

Importing torch and the program takes seconds, a short run a tenth of a second. The server is started with

    python -m faults.server

and reads requests from its standard input, a socket: JSON, a line each. A child runs main.py, or another script, as
`python main.py` would, in a session of its own, with its output in files. Nothing is computed in the server: threads of
torch would not survive the fork. client.py has the other end.
"""

import atexit
import contextlib
import dataclasses
import faulthandler
import gc
import importlib
import json
import os
import resource
import selectors
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import fork_server
from faults.namespace import mount_small_shm
from faults.operations import Trace, decode_fault

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGQUIT)
EACH = 5  # images of a class, at most, to train and to test with


@dataclasses.dataclass(frozen=True)
class Request:
    """script: below the project. output: prefix of the files .out and .err, and .trace, the operations below `folder`.

    traced: the operations are recorded, and the folder is copied into `copies` before each that changes the disk.
    memory: bytes of address space beyond those of the server. limits: {name of a resource limit: value}.
    schedule_factor: of the learning rate, for a run that differs from another one of the same command. private_shm:
    bytes of a separate /dev/shm.
    """

    arguments: list[str]
    folder: str
    output: str
    script: str = "main.py"
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    fault: dict[str, Any] | None = None
    traced: bool = False
    copies: str | None = None
    memory: int | None = None
    limits: dict[str, int] = dataclasses.field(default_factory=dict)
    schedule_factor: float | None = None
    private_shm: int | None = None


# ---- in the child ----


def run(request: Request) -> None:
    """Runs the script and ends the process, as Python does at the end of a program."""
    _become_a_program(request)
    limits = dict(request.limits)
    if request.memory:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limits["RLIMIT_AS"] = used + request.memory
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, resource.getrlimit(getattr(resource, name))[1]))
    if request.private_shm:
        mount_small_shm(request.private_shm)
    if request.schedule_factor:
        _change_schedule(request.schedule_factor)
    trace = Trace(request.folder, decode_fault(request.fault), request.copies)
    if request.traced or request.fault:
        trace.install()
    script = str(ROOT / request.script)
    sys.path[0] = str(Path(script).parent)
    status = fork_server.execute([script, *request.arguments])
    trace.process = 0  # from here on, nothing is traced
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with open(f"{request.output}.trace", "w") as file:
        json.dump({"operations": trace.operations, "done": trace.done}, file)
    fork_server.end(status)


def _become_a_program(request: Request) -> None:
    """A session, a folder, files for output, an environment and the signals of a program that has just started."""
    os.setsid()
    os.chdir(request.folder)
    for number, path in enumerate((os.devnull, f"{request.output}.out", f"{request.output}.err")):
        handle = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python does
    faulthandler.register(signal.SIGUSR2, sys.__stderr__)  # the client asks a run that hangs where it is
    os.environ.update(request.environment)
    os.fsync = os.fdatasync = os.fstat  # refuses what they refuse; only after a loss of power could the disk differ


def _change_schedule(factor: float) -> None:
    """Makes the same command train with another learning rate: other weights under the same settings."""
    import utils.schedule

    cosine = utils.schedule.cosine
    utils.schedule.cosine = lambda *args, **kwargs: factor * cosine(*args, **kwargs)


# ---- in the server ----


def prepare() -> None:
    """Imports and reads once the modules, templates and versions of every run; and thins digits_lt."""
    import torch

    torch.set_num_threads(1)
    for name in ("main", "trainer", "safetensors.torch", "torch.utils.tensorboard", "torch.optim", "torchvision.io"):
        importlib.import_module(name)

    from datasets import DATASETS
    from datasets.sets import digits_lt
    from utils.device.environment import versions
    from utils.report import page

    versions()
    for template in ("report.html", "page.html", "parts.html"):
        page.load_template(template)
    data = digits_lt.build()
    train, test = (part.subset(part.some_of_each(len(data.classnames), EACH)) for part in (data.train, data.test))
    few = dataclasses.replace(data, train=train, test=test)
    DATASETS["digits_lt"] = lambda *_: few


def learn_imports(folder: str) -> None:
    """Imports the modules that the scout, an earlier child, had to import: modules.json in its folder."""
    for name in json.loads(Path(folder, "modules.json").read_text()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def scout(request: Request) -> None:
    """Like `run`, and writes the names of the modules that the run imported, beyond the server's."""
    before = set(sys.modules)

    def note() -> None:
        names = [name for name in sys.modules if name not in before]
        Path(request.folder, "modules.json").write_text(json.dumps(names))

    atexit.register(note)
    run(request)


def fork(request: Request, function, others: list[Any]) -> int:
    """Runs `function` in a child, which closes `others`; returns its process id."""
    process = os.fork()
    if process == 0:
        try:
            for other in others:
                other.close()
            function(request)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(99)  # a fault of the harness
    return process


def serve(connection: socket.socket) -> None:
    """Answers {"process"} to each request, and {"process", "status", "max_rss"} when a child has ended."""
    selector, children = selectors.DefaultSelector(), {}

    def answer(**content: Any) -> None:
        connection.sendall((json.dumps(content) + "\n").encode())

    lines = connection.makefile("r")
    selector.register(connection, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is connection:
                line = lines.readline()
                if not line:
                    for process in children.values():
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(process, signal.SIGKILL)
                    return
                content = json.loads(line)
                if "learn" in content:
                    learn_imports(content["learn"])
                    gc.collect()
                    gc.freeze()  # the children's collections leave these objects alone, and so their memory shared
                    fork_server.use_huge_pages()
                    answer(process=0)
                    continue
                function = scout if content.pop("scout", False) else run
                process = fork(Request(**content), function, [connection, selector])
                handle = os.pidfd_open(process)
                selector.register(handle, selectors.EVENT_READ)
                children[handle] = process
                answer(process=process)
            else:
                process = children.pop(key.fd)
                selector.unregister(key.fd)
                os.close(key.fd)
                _, status, usage = os.wait4(process, 0)
                answer(process=process, status=os.waitstatus_to_exitcode(status), max_rss=usage.ru_maxrss * 1024)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # until an attempt can use it
    prepare()
    with socket.socket(fileno=os.dup(0)) as connection:
        connection.sendall(b'{"process": 0}\n')
        serve(connection)
