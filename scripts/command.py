"""What the commands on earlier runs share: their options, and their errors as one sentence with an exit status."""

import argparse
import os
from collections.abc import Callable

from utils import terminal
from utils.errors import UserError
from utils.run.stopping import Stopping


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where a run's images and weights are now, and how logits are computed."""
    parser.add_argument("--root", metavar="FOLDER", help="folder of the images, where they are elsewhere now")
    parser.add_argument("--weights", metavar="FILE", help="the backbone's weights, where they are elsewhere now")
    parser.add_argument("--num_workers", type=int, metavar="N", help="processes that read images; default: one a core")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: the GPU, if there is one")


def execute(function: Callable[[list[str]], int], arguments: list[str], interrupted: str) -> int:
    """Calls function(arguments) and returns its exit status; 2 for wrong input, 1 for a failure, 130 for Ctrl-C.

    interrupted: what a command that a signal ended has left, as the end of its sentence. DEBUG=1 shows tracebacks.
    """
    try:
        with Stopping(interrupted).handled():
            return function(arguments)
    except KeyboardInterrupt:
        terminal.say(f"interrupted; {interrupted}", error=True)
        return 130
    except Exception as error:
        if os.environ.get("DEBUG") == "1":
            raise
        if isinstance(error, UserError):
            terminal.say(f"error: {error}", error=True)
            return 2
        terminal.say(f"failed: {terminal.describe(error)} (DEBUG=1 shows where)", error=True)
        return 1
