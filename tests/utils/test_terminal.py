"""Output never ends a run: closed, broken, full or ASCII-only streams, and control characters."""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from utils import terminal

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "import sys; from utils import terminal; terminal.protect(); "  # what follows it, a program prints
BOTH = "terminal.say('out'); terminal.say('err', error=True); print('p' * 100_000); sys.stderr.write('w'); sys.exit(3)"


def shell(code, redirection, **environment):
    """The exit status and the output of a program whose streams a shell redirects; pipes as of `head -c 0`."""
    command = f'"{sys.executable}" -c "$CODE" {redirection}'
    environment = os.environ | {"CODE": SCRIPT + code, "PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=environment, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirection",
    [
        ">&-",
        "2>&-",
        "<&- >&- 2>&-",
        ">/dev/full 2>/dev/full",
        "2>&1 | true; exit ${PIPESTATUS[0]}",
        "2>&1 | head -c 1; exit ${PIPESTATUS[0]}",
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_streams_that_take_nothing_change_nothing(redirection, unbuffered):
    status, _, error = shell(BOTH, redirection, PYTHONUNBUFFERED=unbuffered)
    assert status == 3
    assert "Error" not in error
    assert "ignored" not in error


@pytest.mark.slow
def test_a_closed_descriptor_is_not_taken_by_the_next_file(tmp_path):
    code = f"file = open(r'{tmp_path / 'log'}', 'w'); import os; os.write(2, b'of a library'); os.write(1, b'too')"
    status, *_ = shell(code, ">&- 2>&-")
    assert status == 0
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "utf-8"])
def test_letters_that_a_terminal_lacks_are_escaped(encoding):
    code = "print('日本'); terminal.say('日本'); import warnings; warnings.warn('日本\\x1b[31m')"
    status, out, error = shell(code, "", PYTHONIOENCODING=encoding)
    expected = "日本" if encoding == "utf-8" else "\\u65e5\\u672c"
    assert status == 0
    assert out == f"{expected}\n{expected}\n"
    assert f"UserWarning: {expected}\\x1b[31m\n" in error


@pytest.mark.slow
def test_a_full_pipe_that_does_not_block_is_waited_for_once():
    """Another program may have set O_NONBLOCK on a shared terminal; a reader that never reads blocks nobody."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    code = SCRIPT + "[print('x' * 50_000) for _ in range(20)]"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, env=environment, timeout=60
    )
    os.close(write)
    os.close(read)
    assert (done.returncode, done.stderr) == (0, b"")


class Refusing(io.StringIO):
    """A stream of a notebook or another program, which fails."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


@pytest.mark.parametrize(
    "stream",
    [None, *(Refusing(error) for error in (BrokenPipeError(), OSError(28, "full"), BlockingIOError(), ValueError()))],
    ids=("none", "broken", "full", "blocking", "closed"),
)
def test_say_never_raises(stream, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
    terminal.say("text")
    terminal.say("text", error=True)
    terminal.BARS.write("bar")
    terminal.BARS.flush()
    assert terminal.BARS.isatty() is False


def test_say_escapes_what_a_terminal_would_obey(capsys):
    terminal.say("a\x1b]0;x\x07\nb\r\u202ec")
    terminal.say("é", error=True)
    assert capsys.readouterr() == ("a\\x1b]0;x\\x07\nb\\r\\u202ec\n", "é\n")


@pytest.mark.parametrize("text", ["\rbar  10%", "\x1b[A\x1b[A", "\n\x1b[A"])
def test_the_movements_of_bars_stay(text):
    assert written(text) == text


def test_only_the_beginning_of_a_text_moves_the_cursor():
    assert written("name\rother\x1b[A") == "name\\rother\\x1b[A"
    assert written("\r\x1b[31m") == "\r\\x1b[31m"


def written(text):
    """The output of a protected stream."""
    read, write = os.pipe()
    terminal._Stream(write, "<test>", "utf-8").write(text)
    os.close(write)
    with open(read, "rb") as file:
        return file.read().decode()


def test_argparse_reports_in_one_line(capsys):
    parser = terminal.Parser(prog="program")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--lr\n\x1b[31m", "1"])
    usage, error = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert error.startswith(
        "program: error: unrecognized arguments: --lr\\n\\x1b[31m 1; options come as KEY VALUE pairs"
    )


def test_a_thread_of_tensorboard_prints_no_traceback(capsys):
    class Writer(threading.Thread):
        pass

    for module in ("tensorboard.summary.writer.event_file_writer", "other"):
        Writer.__module__ = module
        terminal._report_thread(threading.ExceptHookArgs((OSError, OSError("full"), None, Writer())))
        assert ("OSError: full" in capsys.readouterr().err) == (module == "other")


# ---- a terminal's columns ----


@pytest.fixture
def screen(monkeypatch):
    """screen(COLUMNS): stdout and stderr are a terminal; returns a function that reads its screen's lines."""
    opened = []

    def open_terminal(columns):
        reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        stream = terminal._Stream(writer, "<terminal>", "utf-8")
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        opened.append((reader, writer))

        def read():
            os.close(writer)
            opened.clear()
            shown = b""
            try:
                while more := os.read(reader, 65536):
                    shown += more
            except OSError:  # the end of a terminal's output
                os.close(reader)
            return shown.decode().replace("\r\n", "\n")

        return read

    yield open_terminal
    for descriptors in opened:
        for descriptor in descriptors:
            os.close(descriptor)


LOG = (
    "data      digits_lt: 342 training and 500 test images, 10 classes of 124 to 2 (1 many, 4 medium, 5 few)\n"
    f"results   output/{'a long name of a run ' * 5}/results.json\n"
    f"$ python main.py -d digits_lt {'v.lora True ' * 10}"
)


def test_lines_are_wrapped_for_a_terminal(screen):
    read = screen(80)
    terminal.say(LOG, wrap=True)
    first, second, *whole = read().splitlines()
    assert f"{first} {second.strip()}" == LOG.splitlines()[0]
    assert second.startswith(10 * " ") and len(first) <= 80 < len(first) + len(second.split()[0]) + 1
    assert whole == LOG.splitlines()[1:]


def test_lines_are_whole_without_a_terminal_or_without_wrap(screen, capsys):
    terminal.say(LOG, wrap=True)
    assert capsys.readouterr().out == LOG + "\n"
    read = screen(80)
    terminal.say(LOG)
    assert read() == LOG + "\n"


@pytest.mark.parametrize(("columns", "expected"), [(200, 80), (80, 80), (60, 60), (0, 80)])
def test_the_columns_of_a_stream(screen, columns, expected):
    screen(columns)
    assert terminal.columns(sys.stdout) == expected
    assert terminal.columns(io.StringIO()) == terminal.columns(None) == 80


@pytest.mark.parametrize(
    ("title", "total", "done", "seconds", "postfix", "tail"),
    [
        ("epoch 1/2", 342, 300, 2.0, "loss 1.46, accuracy 56.7 %", "images/s, loss 1.46, accuracy 56.7 %"),
        (
            "epoch 100/100",
            9_000_000,
            400_000,
            333.0,
            "loss 10.4, accuracy 56.7 %",
            "images/s, loss 10.4, accuracy 56.7 %",
        ),
        ("testing", 50_000, 25_000, 20.0, "", "00:20 left, 1,250 images/s"),
    ],
)
def test_a_progress_bar_fits_80_columns_with_its_tail(screen, title, total, done, seconds, postfix, tail):
    read = screen(80)
    with terminal.progress(total, title) as bar:
        bar.start_t -= seconds  # as if this had taken so long
        bar.last_print_t = bar.start_t
        bar.n = done
        bar.set_postfix_str(postfix)
    lines = [line.rstrip() for line in read().split("\r")]
    assert max(map(len, lines)) <= 80
    shown = [line for line in lines if "left" in line][-1]
    assert shown.startswith(title)
    assert f"{100 * done / total:3.0f}%|" in shown
    assert shown.endswith(tail)
    assert " left, " in shown
