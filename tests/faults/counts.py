"""The number of attempts in `make test`, and with `make faults`, as shown in docs/reliability.md."""

ALL = None  # all cases
COUNTS: dict[str, tuple[int | None, int | None]] = {  # kind: (make test, make faults)
    "kills at random times": (18, 300),
    "kills at file operations, a first run": (48, ALL),
    "kills at file operations, a resumed run": (16, ALL),
    "kills at file operations, a finished run again": (16, ALL),
    "kills at file operations, a test": (8, ALL),
    "errors of file operations": (24, ALL),
    "corrupted files": (100, 3000),
    "signals at file operations": (8, ALL),
    "signals while it trains": (12, 240),
    "signals at random times, times each": (1, 20),
    "kills of the main process among its workers": (2, 40),
}
