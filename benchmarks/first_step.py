"""Runs main.py as a user does, and leaves where the first training step begins; for benchmarks/fresh.py.

    python benchmarks/first_step.py FILE -d DATA -b BACKBONE -m METHOD [KEY VALUE ...]

FILE then holds the time, in seconds since the epoch.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import main
import trainer


class UntilFirstStep(trainer.Trainer):
    """The product's trainer, but for its steps."""

    def train_step(self, *_: object) -> None:
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize()
        Path(sys.argv[1]).write_text(str(time.time()))
        sys.exit(0)


trainer.Trainer = UntilFirstStep
sys.exit(main.main(sys.argv[2:]))
