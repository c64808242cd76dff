"""Fine-tunes a frozen CLIP or ViT for long-tailed recognition, and tests it.

    python main.py -d DATA -b BACKBONE -m METHOD [KEY VALUE ...]
    python main.py -d DATA -m MODEL [KEY VALUE ...]          LIFT's form: MODEL is a file of configs/model
    python main.py --help [all | KEY | NAME]                 utils/config/help.py has the texts

Exit status: 0 done, 1 failure, 2 wrong input, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 138 SIGUSR1 (after saving the
progress). DEBUG=1 shows the traceback.
"""

import argparse
import os
import re
import shlex
import signal
import sys

from utils import terminal
from utils.config import load_config
from utils.config.help import USAGE, help_text
from utils.errors import ConfigError, UserError
from utils.files import WriteError
from utils.home import ensure_home
from utils.imports import uncollected
from utils.run.stopping import Stopped, Stopping, describe, status
from utils.version import VERSION

HELP = ("-h", "--help")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line: data, backbone (may be None), method and options. --help prints its text, and exits."""
    parser = terminal.Parser(usage=USAGE, add_help=False)
    parser.add_argument("--version", action="version", version=f"LIFT+ {VERSION}")
    words = iter(arguments)
    if any(word in HELP for word in words):  # the next word is the topic
        try:
            terminal.say(help_text(next(words, ""), terminal.columns(sys.stdout)))
        except ConfigError as error:
            parser.error(str(error))
        parser.exit()
    for flag, section in (("-d", "data"), ("-b", "backbone"), ("-m", "method")):
        parser.add_argument(flag, dest=section, required=section != "backbone")
    parser.add_argument("options", nargs="*")
    return parser.parse_intermixed_args(arguments)


def warn(line: str) -> None:
    """Prints a note about the command line."""
    terminal.say(f"note: {line}", error=True, wrap=True)


def explain(error: Exception) -> str:
    """A failure as one sentence, with the remedy if it is known."""
    text = terminal.describe(error)
    if isinstance(error, WriteError):
        return f"{text}, then run the same command again"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which may not be imported
        size = re.search(r"to allocate ([\d.]+ \w+)", text)
        return (
            f"the GPU has too little free memory{f' for {size[1]} more' if size else ''}; set accum_step None, which "
            "splits a step into micro-batches that fit, checkpointing True, which saves memory in each of them, or a "
            "smaller batch_size; nvidia-smi lists the programs that use the GPU"
        )
    operation, missing, _ = str(error).partition(" does not have a deterministic implementation")  # torch's words
    if missing:
        return f"{operation} has no deterministic implementation on this device; set deterministic False"
    return text


def main(arguments: list[str]) -> int:
    """Runs a command; returns its exit status. Signals are handled from the first line to the last."""
    stopping = Stopping()
    with stopping.handled():
        return execute(parse(arguments), shlex.join(["python", "main.py", *arguments]), stopping)


def execute(args: argparse.Namespace, command: str, stopping: Stopping) -> int:
    """Executes a parsed command; returns its exit status."""
    debugging = os.environ.get("DEBUG") == "1"
    try:
        cfg = load_config(args.data, args.backbone, args.method, args.options, warn)

        with uncollected():
            from trainer import run  # takes seconds, so it comes after the checks that do not need it

        run(cfg, command, stopping)
    except Stopped as stop:
        stopping.say(str(stop))
        return status(stop.number)
    except KeyboardInterrupt:
        stopping.say(describe(signal.SIGINT))
        return status(signal.SIGINT)
    except UserError as error:
        if debugging:
            raise
        terminal.say(f"error: {error}", error=True, wrap=True)
        return 2
    except Exception as error:
        if debugging:
            raise
        terminal.say(f"failed: {explain(error)} (DEBUG=1 shows the traceback)", error=True, wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main(sys.argv[1:]))
