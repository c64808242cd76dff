"""What a run says while it lasts: lines on the terminal and in a file, numbers in metrics.jsonl and for TensorBoard."""

import fcntl
import json
import os
import time
from pathlib import Path

from tqdm import tqdm

from utils.errors import ConfigError
from utils.files import write_text


class RunLog:
    """Lines go to the terminal and to `file`; scalars to metrics.jsonl and TensorBoard; progress to a bar.

    file: log.txt of a training run, log_<what>.txt of a test; a later run of the same directory is added to it.
    speaks: False for a process that leaves all this to another one.
    """

    def __init__(self, directory: Path, file: str = "log.txt", speaks: bool = True):
        self.directory, self.speaks = directory, speaks
        try:
            directory.mkdir(parents=True, exist_ok=True)
            path = directory / file if speaks else os.devnull
            self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in __exit__)
        except OSError as error:
            raise ConfigError(
                f"cannot write to the run directory {directory} ({error.strerror}); choose another with output_dir DIR"
            ) from error
        if speaks:
            self._lock()
        self.metrics = None
        self.board = None
        self.first_step = 1

    def _lock(self) -> None:
        """Raises a ConfigError if another process writes this log: two runs in one directory would spoil each other."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.file.close()
            raise ConfigError(
                f"another process is at work in {self.directory}; wait for it, or choose another output_dir"
            ) from error
        except OSError:  # a file system without locks
            return

    def info(self, text: str) -> None:
        """One or more lines, on the terminal above any progress bar and in the file."""
        if self.speaks:
            tqdm.write(text)
        self.note(text)

    def note(self, text: str) -> None:
        """As info, in the file only."""
        self.file.write(time.strftime("%Y-%m-%d %H:%M:%S  ") + text + "\n")
        self.file.flush()

    def scalars(self, step: int, **values: float) -> None:
        """Numbers of training step `step`: a line of metrics.jsonl, and curves in TensorBoard."""
        if not self.speaks:
            return
        if self.metrics is None:
            from torch.utils.tensorboard import SummaryWriter  # heavy: imported where it is used

            self.metrics = open(self.directory / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115
            self.board = SummaryWriter(str(self.directory), purge_step=self.first_step)
        self.metrics.write(json.dumps({"step": step, **values}) + "\n")
        self.metrics.flush()
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def rewind(self, step: int) -> None:
        """Forgets all numbers after `step`: those of an epoch cut short, or with step 0 those of an earlier run."""
        path = self.directory / "metrics.jsonl"
        if path.exists() and self.speaks:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(path, "".join(line for line in lines if _step_of(line) <= step))
        for events in self.directory.glob("events.out.*") if step == 0 and self.speaks else ():
            events.unlink()
        self.first_step = step + 1

    def progress(self, total: int, what: str) -> tqdm:
        """A bar over `total` images with images per second and time left; none where no terminal would show it."""
        silent = None if self.speaks else True  # None: where there is no terminal
        return tqdm(total=total, desc=what, unit=" images", dynamic_ncols=True, leave=False, disable=silent)

    def epoch(self, epoch: int, num_epochs: int, num_images: int, num_steps: int) -> "EpochProgress":
        """What is said in the course of one epoch of training."""
        return EpochProgress(self, f"epoch {epoch + 1}/{num_epochs}", epoch * num_steps, num_images, num_steps)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.note(f"stopped: {kind.__name__}: {error}")
        for sink in (self.file, self.metrics, self.board):
            if sink is not None:
                sink.close()


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
        """One step of so many images is done."""
        self.step += 1
        self.images += images
        self.bar.update(images)

    def tell(self, loss_sum: float, correct: float, lr: float) -> float:
        """Says how the epoch goes: its mean loss (returned), its accuracy, its speed."""
        loss, accuracy = loss_sum / self.step, 100 * correct / self.images
        rate = self.images / (time.perf_counter() - self.start)
        self.bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1f} %")
        say = self.log.info if self.bar.disable or self.step == self.num_steps else self.log.note
        say(
            f"{self.title}  step {self.step}/{self.num_steps}  loss {loss:.4f}  training accuracy {accuracy:5.2f} %  "
            f"lr {lr:.5f}  {rate:,.0f} images/s"
        )
        self.log.scalars(self.steps_before + self.step, loss=loss, accuracy=accuracy, lr=lr, images_per_second=rate)
        return loss

    def __enter__(self) -> "EpochProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
