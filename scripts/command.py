"""Runs the function of a script: one sentence for each error, and an exit status for each kind."""

import os
from collections.abc import Callable

from utils import terminal
from utils.errors import UserError
from utils.run.stopping import Stopping


def execute(function: Callable[[list[str]], int], arguments: list[str], interrupted: str, failed: int = 1) -> int:
    """Calls function(arguments) and returns its exit status; 2 for wrong input, `failed` for a failure, 130 for Ctrl-C.

    interrupted: the end of the sentence for a command that a signal ended. DEBUG=1 shows tracebacks.
    """
    try:
        with Stopping(interrupted).handled():
            return function(arguments)
    except KeyboardInterrupt:
        terminal.say(f"interrupted; {interrupted}", error=True, wrap=True)
        return 130
    except Exception as error:
        if os.environ.get("DEBUG") == "1":
            raise
        if isinstance(error, UserError):
            terminal.say(f"error: {error}", error=True, wrap=True)
            return 2
        terminal.say(f"failed: {terminal.describe(error)} (DEBUG=1 shows the traceback)", error=True, wrap=True)
        return failed
