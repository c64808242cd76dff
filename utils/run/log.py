"""The log of a run: lines on the terminal and in a file, numbers in metrics.jsonl, for TensorBoard and a tracker."""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

from utils import terminal
from utils.errors import ConfigError
from utils.files import open_to_append, read_limited, write_text
from utils.run.directory import TRAINING, RunDir
from utils.run.mode import Mode
from utils.run.trackers import Option, Tracker, open_tracker
from utils.text import rate, significant, visible

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS_BYTES = 1_000_000_000  # of metrics.jsonl; a step has 130


Scores = Mapping[str, float | None]  # None: undefined


class RunLog:
    """Lines for the terminal and a file, numbers for metrics.jsonl, TensorBoard and a tracker, and progress bars.

    A later run in the same directory appends to the file. enabled: False on ranks other than 0.
    """

    def __init__(self, run_dir: RunDir, mode: Mode = TRAINING, enabled: bool = True):
        self.run_dir, self.mode, self.enabled = run_dir, mode, enabled
        self.curves_dir = run_dir  # where metrics.jsonl and TensorBoard's files are written
        try:
            folders = (run_dir.path, *run_dir.path.parents) if enabled else ()
            self.new_folders = [path for path in folders if not path.exists()]
            run_dir.path.mkdir(parents=True, exist_ok=True)
            self.file: TextIO = run_dir.open_log(mode) if enabled else open_to_append(Path(os.devnull))
        except OSError as error:
            message = (
                f"cannot write to the run directory {run_dir.path} ({error.strerror}); "
                "choose another with output_dir DIR"
            )
            raise ConfigError(message, kind="cannot_write", path=run_dir.path) from error
        self.metrics: TextIO | None = None
        self.board: SummaryWriter | None = None
        self.tracker: Tracker | None = None
        self.first_step = 1
        self.failed = False  # whether something could not be written

    def info(self, text: str) -> None:
        """Writes one or more lines to the terminal, wrapped and above any progress bar, and whole to the file."""
        if self.enabled:
            terminal.say(text, wrap=True)
        self.note(text)

    def note(self, text: str) -> None:
        """Writes one or more lines to the file only."""
        with self._may_fail():
            self.file.write(time.strftime("%Y-%m-%d %H:%M:%S  ") + visible(text, keep="\n") + "\n")
            self.file.flush()

    @contextlib.contextmanager
    def _may_fail(self) -> Iterator[None]:
        """Within it, a failed write of logs and curves does not end the run: the terminal gets one warning."""
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: TensorBoard's, of a file that its thread has closed
            if not self.failed and self.enabled:
                reason = getattr(error, "strerror", None) or error
                terminal.say(
                    f"warning   logs and curves in {self.run_dir.path} cannot be written ({reason}); lines will be "
                    "missing there, but the run continues",
                    wrap=True,
                )
            self.failed = True

    def scalars(self, step: int, **values: float) -> None:
        """Writes the numbers of a training step: a line of metrics.jsonl, and curves train/NAME."""
        self._write_line({"step": step, **values})
        self._write_curves(step, {f"train/{name}": value for name, value in values.items()})

    def validation(self, step: int, epoch: int, scores: Scores) -> None:
        """Writes the validation after an epoch, counted from 1: a line of metrics.jsonl, and curves val/NAME."""
        curves = {f"val/{name}": value for name, value in scores.items()}
        self._write_line({"step": step, "epoch": epoch, **curves})
        self._write_curves(step, curves)

    def end_scores(self, step: int, split: str, scores: Scores, options: dict[str, Option]) -> None:
        """Writes the scores of the test after the last step: curves SPLIT/NAME, and TensorBoard's hparams tab.

        options: of the training, see `trackers.hyperparameters`.
        """
        curves = {f"{split}/{name}": value for name, value in scores.items()}
        self._write_curves(step, curves)
        if self.board is None or self.board.file_writer is None:
            return
        with self._may_fail():
            from torch.utils.tensorboard.summary import hparams

            # SummaryWriter.add_hparams would write to a folder of its own
            for summary in hparams(options, {name: value for name, value in curves.items() if value is not None}):
                self.board.file_writer.add_summary(summary)

    def _write_line(self, values: Scores) -> None:
        """Writes a line of metrics.jsonl; numbers that are not finite are null."""
        if not self.enabled:
            return
        with self._may_fail():
            if self.metrics is None:
                self.metrics = open_to_append(self.curves_dir.metrics)
            finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
            self.metrics.write(json.dumps(dict.fromkeys(values) | finite) + "\n")
            self.metrics.flush()

    def _write_curves(self, step: int, values: Scores) -> None:
        """Writes numbers for TensorBoard and the tracker; those that are undefined are left out."""
        if not self.enabled:
            return
        numbers = {name: value for name, value in values.items() if value is not None}
        with self._may_track():
            if self.tracker:
                self.tracker.log(step, numbers)
        if self.failed:
            return  # a failed writer of TensorBoard stays so
        with self._may_fail():
            if self.board is None:
                from torch.utils.tensorboard import SummaryWriter  # heavy: imported where it is used

                self.board = SummaryWriter(str(self.curves_dir.path), purge_step=self.first_step)
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)

    def start_tracker(self, kind: str, options: dict[str, Option]) -> None:
        """Sends the numbers that follow to a run of a tracker, too. options: see `trackers.hyperparameters`."""
        if self.enabled and self.tracker is None:
            with self._may_track():
                self.tracker = open_tracker(kind, self.run_dir.path.name, self.run_dir.path, options)

    @contextlib.contextmanager
    def _may_track(self) -> Iterator[None]:
        """Within it, a failing tracker does not end the run: it is dropped with one warning."""
        try:
            yield
        except (Exception, SystemExit) as error:  # of another program, so of any kind
            self.tracker = None
            reason = terminal.describe(error)
            self.info(f"warning   the tracker failed ({reason}); it gets no more numbers, but the run continues")

    def start_curves(self, directory: RunDir, step: int, epoch: int) -> None:
        """Writes the numbers of later steps and of validations after later epochs to `directory`.

        Earlier numbers after `step` and `epoch` are removed: they are recomputed, or belong to an earlier run (step 0).
        """
        self.curves_dir, path = directory, directory.metrics
        if path.is_file() and self.enabled:
            lines = read_limited(path, METRICS_BYTES).decode("utf-8", "replace").splitlines(keepends=True)
            write_text(path, "".join(line for line in lines if _is_of(line, step, epoch)))
        for events in directory.curves() if step == 0 and self.enabled else ():
            events.unlink()
        self.first_step = step + 1

    def end_curves(self) -> None:
        """Closes metrics.jsonl and TensorBoard's file."""
        for sink in (self.metrics, self.board):
            if sink is not None:
                with self._may_fail():
                    sink.close()
        self.metrics = self.board = None

    def progress(self, total: int, title: str, done: int = 0) -> tqdm:
        """A bar over `total` images, `done` of them done, with images per second and time left; only on a terminal."""
        return terminal.progress(total, title, done, self.enabled)

    def epoch(
        self, epoch: int, num_epochs: int, num_images: int, num_steps: int, done: tuple[int, int] = (0, 0)
    ) -> "EpochProgress":
        """The bar and the lines of one epoch of training; done: its steps and images of an interrupted run."""
        return EpochProgress(self, f"epoch {epoch + 1}/{num_epochs}", epoch * num_steps, num_images, num_steps, done)

    def close(self) -> None:
        """Closes the files, which releases the run directory."""
        self.end_curves()
        with self._may_track():
            if self.tracker:
                self.tracker.finish()
        with self._may_fail():
            self.file.close()

    def end(self, reason: str) -> None:
        """Logs why the run ended early. If the log is its only file, it is removed with its folder."""
        self.note(f"stopped: {reason.removeprefix('stopped by ')}")
        if not self.new_folders:
            return
        with contextlib.suppress(OSError):  # a folder that is not empty
            if [path.name for path in self.run_dir.path.iterdir()] == [self.run_dir.log(self.mode).name]:
                self.run_dir.log(self.mode).unlink()
            for folder in self.new_folders:
                folder.rmdir()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.end(str(error) if isinstance(error, KeyboardInterrupt) else f"{kind.__name__}: {error}")
        self.close()


def _is_of(line: str, step: int, epoch: int) -> bool:
    """Whether a line of metrics.jsonl belongs to a step, or to the validation after an epoch, up to these."""
    try:
        content = json.loads(line)
        return float(content["step"]) <= step and float(content.get("epoch", 0)) <= epoch
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):  # cut by a kill, or damaged
        return False


class EpochProgress:
    """The bar of an epoch, and lines with its running means."""

    def __init__(
        self, log: RunLog, title: str, steps_before: int, num_images: int, num_steps: int, done: tuple[int, int]
    ):
        self.log, self.title, self.steps_before, self.num_steps = log, title, steps_before, num_steps
        self.step, self.images = done
        self.bar = log.progress(num_images, title, self.images)
        self.images_before, self.start = self.images, time.perf_counter()

    def advance(self, images: int) -> None:
        """Counts one step of `images` images."""
        self.step += 1
        self.images += images
        self.bar.update(images)

    def report(self, loss_sum: float, correct: float, lr: float) -> float:
        """Logs mean loss (returned), accuracy and speed of the epoch so far."""
        loss, accuracy = loss_sum / self.step, 100 * correct / self.images
        speed = (self.images - self.images_before) / (time.perf_counter() - self.start)
        self.bar.set_postfix_str(f"loss {significant(loss)}, accuracy {accuracy:.1f} %")
        is_end = self.step == self.num_steps
        position = self.title if is_end else f"{self.title}  step {self.step}/{self.num_steps}"
        write = self.log.info if self.bar.disable or is_end else self.log.note
        write(f"{position}  loss {loss:.4f}  train accuracy {accuracy:.2f} %  lr {lr:.3g}  {rate(speed)}")
        self.log.scalars(self.steps_before + self.step, loss=loss, accuracy=accuracy, lr=lr, images_per_second=speed)
        return loss

    def __enter__(self) -> "EpochProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
