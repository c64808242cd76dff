"""Classifies new pictures with the model of a run. The training data is not needed.

    python scripts/predict.py RUN PICTURES ...
    python scripts/predict.py output/NAME photo.jpg FOLDER list.txt --csv t.csv
    find FOLDER -name '*.jpg' -print0 | python scripts/predict.py output/NAME -

PICTURES are files; folders, which are searched with their subfolders; lists: a .txt with a path per line, a .csv or
.tsv with a column called path, or else with the paths in its first column; and - for paths from the standard input.
Without --csv, each picture is printed on a line with its most probable classes.

Exit status: 0 done, 3 done, except for pictures that could not be read, 1 failure, 2 wrong input, 130 Ctrl-C,
143 SIGTERM. DEBUG=1 shows the traceback.
"""

import argparse
import csv
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from command import execute
from model_options import UNREAD, add_model_options, note, note_unread, require_folder, whole

from utils import terminal
from utils.files import write_text
from utils.home import ensure_home
from utils.imports import uncollected
from utils.predictions import TOP, number
from utils.text import duration, rate, visible

if TYPE_CHECKING:
    from models.predictor import Prediction, Predictor


def share(text: str) -> float:
    """A type of argparse: numbers from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, found '{text}'")
    return value


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = terminal.Parser(prog="scripts/predict.py", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="the run directory, such as output/NAME")
    parser.add_argument("pictures", nargs="+", metavar="PICTURES", help="files, folders, lists, or - (standard input)")
    parser.add_argument("--top", type=whole(1), default=TOP, metavar="K", help="classes of each picture (%(default)s)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a table, with a row for each picture")
    parser.add_argument(
        "--threshold", type=share, metavar="P", help="mark pictures whose class has a probability below P as unsure"
    )
    parser.add_argument("--tte", action="store_true", help="test-time ensembling: several crops, logits averaged")
    add_model_options(parser)
    return parser.parse_intermixed_args(arguments)


# ---- results ----


def is_sure(found: "Prediction", threshold: float | None) -> bool:
    """Whether the probability of the predicted class reaches the threshold."""
    return threshold is None or (found.probability or 0.0) >= threshold


def describe(found: "Prediction", threshold: float | None) -> str:
    """The line of a picture that was read."""
    top = "  ".join(f"{ranked.classname} {100 * ranked.probability:.1f} %" for ranked in found.top)
    return visible(f"{found.path}  {top}") + ("" if is_sure(found, threshold) else "  (unsure)")


class Table:
    """The rows of --csv, in memory until all pictures are read.

    path, predicted_label, predicted_class, class_1, probability_1, ..., sure (with a threshold: 1 or 0), error
    """

    def __init__(self, top: int, threshold: float | None):
        self.top, self.threshold, self.text = top, threshold, io.StringIO()
        self.writer = csv.writer(self.text, lineterminator="\n")
        ranks = [column for rank in range(1, top + 1) for column in (f"class_{rank}", f"probability_{rank}")]
        sure = [] if threshold is None else ["sure"]
        self.writer.writerow(["path", "predicted_label", "predicted_class", *ranks, *sure, "error"])

    def add(self, found: "Prediction") -> None:
        """Adds the row of a picture; an unreadable one has only its path and error."""
        cells = [cell for ranked in found.top for cell in (ranked.classname, number(ranked.probability))]
        sure = [] if self.threshold is None else [str(int(is_sure(found, self.threshold)))]
        if found.error:
            cells, sure = [""] * 2 * self.top, [""] * len(sure)
        self.writer.writerow([found.path, found.label, found.classname, *cells, *sure, found.error])

    def write(self, path: Path) -> None:
        """Writes the file atomically. Raises WriteError."""
        write_text(path, self.text.getvalue(), errors="surrogateescape")  # file names may be any bytes


# ---- the command ----


def predictions(model: "Predictor", paths: list[str], top: int) -> Iterator[list["Prediction"]]:
    """Yields the predictions of each batch, with a progress bar; prints the reasons for unread pictures."""
    with terminal.progress(len(paths), "predicting") as bar:
        for batch in model.stream(model.pictures(paths), top, note):
            for found in batch:
                if found.error:
                    note_unread(found.path, found.error)
            yield batch
            bar.update(len(batch))


def run(arguments: list[str]) -> int:
    """Classifies, prints or writes the predictions; returns the exit status. Raises UserErrors, and WriteError."""
    args = parse(arguments)

    # heavy imports come after --help and wrong options
    with uncollected():
        from datasets.own.unlabelled import find_pictures, read_standard_input
        from models import load_run

    # ---- pictures and model ----
    paths = find_pictures(args.pictures, read_standard_input, note)
    if args.csv:
        require_folder(args.csv)
    model = load_run(args.run, args.device, args.weights, args.precision, args.batch_size, args.num_workers)
    model = model.with_ensembling() if args.tte else model

    # ---- predictions ----
    table, start = Table(min(args.top, len(model.classnames)), args.threshold), time.perf_counter()
    unread = unsure = 0
    for batch in predictions(model, paths, args.top):
        read = [found for found in batch if not found.error]
        unread += len(batch) - len(read)
        unsure += sum(not is_sure(found, args.threshold) for found in read)
        if args.csv:
            for found in batch:
                table.add(found)
        elif read:
            terminal.say("\n".join(describe(found, args.threshold) for found in read))
    seconds = time.perf_counter() - start

    # ---- summary ----
    if args.csv:
        table.write(args.csv)
    counts = [f"{len(paths):,} picture{'s' * (len(paths) != 1)} in {duration(seconds)}, {rate(len(paths) / seconds)}"]
    counts += [] if args.threshold is None else [f"{unsure:,} unsure (below {args.threshold:g})"]
    counts += [f"{unread:,} not read"] if unread else []
    counts += [f"written to {args.csv}"] if args.csv else []
    note("; ".join(counts))
    return UNREAD if unread else 0


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit status."""
    return execute(run, arguments, "no table was written")


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main(sys.argv[1:]))
