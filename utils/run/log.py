"""The log of a run: lines on the terminal and in a file, numbers in metrics.jsonl and for TensorBoard."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

from utils import terminal
from utils.errors import ConfigError
from utils.files import open_to_append, write_text
from utils.run.directory import TRAINING, RunDir
from utils.run.mode import Mode
from utils.text import rate, visible

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """Lines go to the terminal and to a file, scalars to metrics.jsonl and TensorBoard, progress to a bar.

    A later run in the same directory appends to the file. enabled: False on ranks other than 0.
    """

    def __init__(self, run_dir: RunDir, mode: Mode = TRAINING, enabled: bool = True):
        self.run_dir, self.enabled = run_dir, enabled
        try:
            run_dir.path.mkdir(parents=True, exist_ok=True)
            path = run_dir.log(mode) if enabled else Path(os.devnull)
            self.file: TextIO = open_to_append(path)
        except OSError as error:
            message = (
                f"cannot write to the run directory {run_dir.path} ({error.strerror}); "
                "choose another with output_dir DIR"
            )
            raise ConfigError(message, kind="cannot_write", path=run_dir.path) from error
        if enabled:
            run_dir.lock(self.file)
        self.metrics: TextIO | None = None
        self.board: SummaryWriter | None = None
        self.first_step = 1
        self.failed = False  # whether something could not be written

    def info(self, text: str) -> None:
        """Writes one or more lines to the terminal, above any progress bar, and to the file."""
        if self.enabled:
            terminal.say(text)
        self.note(text)

    def note(self, text: str) -> None:
        """Writes one or more lines to the file only."""
        with self._may_fail():
            self.file.write(time.strftime("%Y-%m-%d %H:%M:%S  ") + visible(text, keep="\n") + "\n")
            self.file.flush()

    @contextlib.contextmanager
    def _may_fail(self) -> Iterator[None]:
        """Logs and curves that cannot be written do not end a run: the terminal gets one warning."""
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: TensorBoard's, of a file that its thread has closed
            if not self.failed and self.enabled:
                reason = getattr(error, "strerror", None) or error
                terminal.say(
                    f"warning   logs and curves in {self.run_dir.path} cannot be written ({reason}); lines will be "
                    "missing there, the run itself continues"
                )
            self.failed = True

    def scalars(self, step: int, **values: float) -> None:
        """Writes the numbers of a training step: a line of metrics.jsonl, and curves in TensorBoard."""
        if not self.enabled:
            return
        with self._may_fail():
            if self.metrics is None:
                self.metrics = open_to_append(self.run_dir.metrics)
            self.metrics.write(json.dumps({"step": step, **values}) + "\n")
            self.metrics.flush()
        if self.failed:
            return  # a failed writer of TensorBoard stays so
        with self._may_fail():
            if self.board is None:
                from torch.utils.tensorboard import SummaryWriter  # heavy: imported where it is used

                self.board = SummaryWriter(str(self.run_dir.path), purge_step=self.first_step)
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def truncate(self, step: int) -> None:
        """Removes all numbers after `step`: those of an epoch cut short, or with step 0 those of an earlier run."""
        path = self.run_dir.metrics
        if path.exists() and self.enabled:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(path, "".join(line for line in lines if _step_of(line) <= step))
        for events in self.run_dir.curves() if step == 0 and self.enabled else ():
            events.unlink()
        self.first_step = step + 1

    def progress(self, total: int, title: str) -> tqdm:
        """A bar over `total` images with images per second and time left; none where no terminal would show it."""
        disable = None if self.enabled else True  # None: where there is no terminal
        options = {"unit": " images", "dynamic_ncols": True, "leave": False, "file": terminal.BARS}
        return tqdm(total=total, desc=title, disable=disable, **options)

    def epoch(self, epoch: int, num_epochs: int, num_images: int, num_steps: int) -> "EpochProgress":
        """The bar and the lines of one epoch of training."""
        return EpochProgress(self, f"epoch {epoch + 1}/{num_epochs}", epoch * num_steps, num_images, num_steps)

    def close(self) -> None:
        """Closes the files, and so releases the run directory."""
        for sink in (self.file, self.metrics, self.board):
            if sink is not None:
                with self._may_fail():
                    sink.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.note(f"stopped: {kind.__name__}: {error}")
        self.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # the line during which the run was killed
        return float("inf")


class EpochProgress:
    """A bar for one epoch, and now and then a line with its running means."""

    def __init__(self, log: RunLog, title: str, steps_before: int, num_images: int, num_steps: int):
        self.log, self.title, self.steps_before, self.num_steps = log, title, steps_before, num_steps
        self.bar = log.progress(num_images, title)
        self.step, self.images, self.start = 0, 0, time.perf_counter()

    def advance(self, images: int) -> None:
        """Counts one step of so many images."""
        self.step += 1
        self.images += images
        self.bar.update(images)

    def report(self, loss_sum: float, correct: float, lr: float) -> float:
        """Logs mean loss (returned), accuracy and speed of the epoch so far."""
        loss, accuracy = loss_sum / self.step, 100 * correct / self.images
        speed = self.images / (time.perf_counter() - self.start)
        self.bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1f} %")
        write = self.log.info if self.bar.disable or self.step == self.num_steps else self.log.note
        write(
            f"{self.title}  step {self.step}/{self.num_steps}  loss {loss:.4f}  training accuracy {accuracy:5.2f} %  "
            f"lr {lr:.5g}  {rate(speed)}"
        )
        self.log.scalars(self.steps_before + self.step, loss=loss, accuracy=accuracy, lr=lr, images_per_second=speed)
        return loss

    def __enter__(self) -> "EpochProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
