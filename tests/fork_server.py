"""`python ARGUMENTS` in a separate process, without the seconds for importing torch.

    run(["main.py", "-d", "digits_lt", ...], cwd=FOLDER)         as subprocess.run([sys.executable, ...])
    start(["-m", "faults.server"], stdin=SOCKET)                 as subprocess.Popen([sys.executable, ...])

A server, one for each process of pytest, imports the packages of PACKAGES and nothing of the product. It does not use
them, so that it has no threads, locks or random state. Each program is a fork of it, with its own arguments, folder,
environment, standard streams and signals, and imports the product itself.

Three things differ from a new process. Variables that Python or a package reads when it is loaded (PYTHONIOENCODING,
OMP_NUM_THREADS, HF_HOME, ...) are set too late, all programs of a server have one hash seed, and no object is freed at
the end. A test of the start, the imports or the end of a process uses subprocess.
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import weakref
from pathlib import Path
from typing import Any, NoReturn

PACKAGES = ("torch", "torch._dynamo", "torch.utils.tensorboard", "torchvision.io", "safetensors.torch", "PIL.Image")
PACKAGES += ("sklearn.datasets", "scipy.stats", "ftfy", "yacs.config")
LARGEST = 1 << 20  # bytes of a request
HUGE = 1 << 21  # bytes of a huge page
MADV_COLLAPSE = 25  # of madvise(2), Linux 6.1


def use_huge_pages() -> None:
    """Moves the memory of this process to huge pages, where Linux can: its forks take a third of the time.

    A fork copies the table of all pages: 400 MB are 100,000 of 4 KB, 48 ms, or 200 huge ones, 18 ms. Memory that a
    forked process changes is still copied by 4 KB.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    madvise = ctypes.CDLL(None).madvise
    for line in maps.read_text().splitlines():
        addresses, mode, _, _, number, *name = line.split()
        if mode == "rw-p" and number == "0" and name in ([], ["[heap]"]):  # anonymous
            start, end = (int(address, 16) for address in addresses.split("-"))
            start, end = -(-start // HUGE) * HUGE, end // HUGE * HUGE
            if start < end:
                madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_COLLAPSE)


# ---- in the tests ----


class Process:
    """A started program, with the interface of subprocess.Popen."""

    def __init__(self, arguments: list[str], replies: int):
        self.arguments, self.replies = arguments, os.fdopen(replies, "rb", buffering=0)
        self.pid, self.returncode = self._reply(60), None

    def _reply(self, seconds: float | None) -> int:
        """The next number from the server. Raises subprocess.TimeoutExpired."""
        if not select.select([self.replies], [], [], seconds)[0]:
            raise subprocess.TimeoutExpired(self.arguments, seconds or 0)
        line = self.replies.readline()
        assert line, "the fork server ended"
        return int(line)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end; returns the exit status, -N for signal N. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self.returncode = self._reply(timeout)
            self.replies.close()
        return self.returncode

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def start(arguments, cwd=None, env=None, stdin=subprocess.DEVNULL, stdout=None, stderr=None) -> Process:
    """Starts `python ARGUMENTS`. stdin, stdout, stderr: files, descriptors or subprocess.DEVNULL; None: pytest's."""
    content = {
        "arguments": [os.fspath(argument) for argument in arguments],
        "folder": os.path.abspath(cwd or "."),
        "environment": dict(os.environ if env is None else env),
    }
    replies, answers = os.pipe()
    with open(os.devnull, "r+b") as null:
        streams = [
            number if stream is None else null if stream == subprocess.DEVNULL else stream
            for number, stream in enumerate((stdin, stdout, stderr))
        ]
        handles = [stream if isinstance(stream, int) else stream.fileno() for stream in streams]
        socket.send_fds(_server(), [json.dumps(content).encode()], [answers, *handles])
    os.close(answers)
    return Process(content["arguments"], replies)


def run(arguments, cwd=None, env=None, input="", timeout=600, check=False) -> subprocess.CompletedProcess:
    """Runs `python ARGUMENTS` with this standard input; its output is captured, as text.

    Raises subprocess.TimeoutExpired, with the process killed, and with `check` subprocess.CalledProcessError.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(input.encode())
        given.seek(0)
        process = start(arguments, cwd, env, given, out, err)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            raise
        texts = [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode() for file in (out, err)]
    done = subprocess.CompletedProcess(process.arguments, process.returncode, *texts)
    if check:
        done.check_returncode()
    return done


@functools.cache
def _server() -> socket.socket:
    """Starts the server of this process; returns the socket for requests. The server ends when it is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1"}  # of more, a library would start threads when it is loaded
    process = subprocess.Popen([sys.executable, "-P", __file__], stdin=theirs, env=environment, cwd="/")
    theirs.close()
    atexit.register(lambda: (ours.close(), process.wait()))
    return ours


# ---- in the server ----


def serve(requests: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Forks for each request; returns only in the new process, with the request and its standard streams.

    Sends the number of each program, and its status once it has ended.
    """
    wakes, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)  # SIGCHLD writes a byte to it
    running: dict[int, int] = {}  # pipes for the statuses, by program
    while True:
        ready = select.select([requests, wakes], [], [])[0]
        if wakes in ready:
            os.read(wakes, 1 << 16)
            send_statuses(running)
        if requests not in ready:
            continue
        content, handles, _, _ = socket.recv_fds(requests, LARGEST, 4)
        if not content:
            os._exit(0)
        answers, *streams = handles
        program = os.fork()
        if not program:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for handle in (wakes, wake, answers, *running.values()):
                os.close(handle)
            return json.loads(content), streams
        for handle in streams:
            os.close(handle)
        running[program] = answers
        send(answers, program)


def send_statuses(running: dict[int, int]) -> None:
    """Sends the statuses of the programs that have ended, and removes them."""
    while running:
        program, status = os.waitpid(-1, os.WNOHANG)
        if not program:
            return
        answers = running.pop(program)
        send(answers, os.waitstatus_to_exitcode(status))
        os.close(answers)


def send(answers: int, number: int) -> None:
    """Writes a number for the process that has asked, unless it has ended."""
    with contextlib.suppress(BrokenPipeError):
        os.write(answers, b"%d\n" % number)


def become(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> None:
    """Sets the streams, the folder, the environment and the import path of this process as in a new one."""
    for number, handle in enumerate(streams):
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    first = os.getcwd() if arguments[0].startswith("-") else str(Path(arguments[0]).resolve().parent)
    sys.path[:0] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.modules["__main__"] = types.ModuleType("__main__")


def execute(arguments: list[str]) -> int:
    """Runs `-c CODE`, `-m MODULE` or a script with the arguments after it, as Python does; returns the exit status."""
    kind, *rest = arguments
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        if kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), vars(sys.modules["__main__"]))
        elif kind == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def end(status: int) -> NoReturn:
    """Ends as Python does, except that it frees nothing, which would take as long as importing it."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)


def main() -> NoReturn:
    """Imports the packages, then serves; in a fork, runs its program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # until a program can use it
    for name in PACKAGES:
        importlib.import_module(name)
    assert threading.active_count() == len(os.listdir("/proc/self/task")) == 1
    for finalizer in weakref.finalize._registry:  # the packages': 200 of torch would touch 40 MB in each program
        finalizer.atexit = False
    gc.collect()
    gc.freeze()  # no collection looks at these objects, so that their memory stays shared
    requests = socket.socket(fileno=os.dup(0))
    content, streams = serve(requests)
    requests.close()
    become(**content, streams=streams)
    end(execute(content["arguments"]))


if __name__ == "__main__":
    main()
