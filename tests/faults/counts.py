"""The number of attempts in `make test`, and with `make faults`, as shown in docs/reliability.md."""

ALL = None  # all cases
COUNTS: dict[str, tuple[int | None, int | None]] = {  # kind: (make test, make faults)
    "kills at random times": (12, 300),
    "kills at file operations, a first run": (40, ALL),
    "kills at file operations, a resumed run": (12, ALL),
    "kills at file operations, a finished run again": (12, ALL),
    "kills at file operations, a test": (6, ALL),
    "errors of file operations": (16, ALL),
    "corrupted files": (60, 3000),
    "signals at file operations": (8, ALL),
    "signals while it trains": (12, 240),
    "signals at random times": (4, 160),
    "kills of the main process among its workers": (2, 40),
}
