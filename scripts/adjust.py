"""Adjusts the logits of a trained run, without training: other priors, calibrated probabilities.

    python scripts/adjust.py RUN                      shows the run's adjustment
    python scripts/adjust.py RUN --temperature fit    temperature scaling
    python scripts/adjust.py RUN --tau sweep          post-hoc logit adjustment
    python scripts/adjust.py RUN --target uniform     another class prior
    python scripts/adjust.py RUN --tau-norm sweep     tau-normalisation
    python scripts/adjust.py RUN --gla                GLA: adds zero-shot CLIP
    python scripts/adjust.py RUN --reset              removes the adjustment

Choose at most one of --tau, --target and --tau-norm; --gla goes with --target, --temperature with all of them.
Temperature scaling: arXiv 1706.04599. Post-hoc logit adjustment, z - tau log pi: 2007.07314. Tau-normalisation of a
linear head: 1910.09217. Zero-shot CLIP without its label bias (GLA): 2310.08106.

sweep and fit choose the number on validation images, or on training images if the run has no validation images, and
never on test images. The scores before and after are printed for these images, and then for the test images. The
adjustment is written to RUN/adjustment.json and replaces an earlier one; predictions and exports of the run use it.

A FILE.csv of --target has a line per class: its name or number, and its share or count.

Exit status: 0 done, 1 failure, 2 wrong input, 130 Ctrl-C, 143 SIGTERM. DEBUG=1 shows the traceback.
"""

import argparse
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import command
from model_options import add_model_options

from utils import terminal
from utils.home import ensure_home

CHOSEN = ("tau", "target", "tau_norm", "gla", "temperature")  # options that change the adjustment


def number_or(word: str, least: float, most: float):
    """The type of an option: `word`, which chooses a number, or a number from `least` to `most`."""

    def parse(text: str) -> str | float:
        if text == word:
            return word
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be {word}, or a number from {least:g} to {most:g}, found '{text}'")
        return value

    return parse


TAU = number_or("sweep", -10, 10)


def fitting_split(text: str) -> str:
    """The type of --on."""
    if text not in ("val", "train"):
        raise argparse.ArgumentTypeError(f"must be val or train, as test images must not choose values, found '{text}'")
    return text


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = terminal.Parser(prog="scripts/adjust.py", usage="%(prog)s RUN [options]", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    priors = parser.add_mutually_exclusive_group()
    priors.add_argument("--tau", type=TAU, metavar="sweep|TAU", help="post-hoc logit adjustment")
    priors.add_argument("--tau-norm", type=TAU, metavar="sweep|TAU", help="tau-normalisation")
    priors.add_argument("--target", metavar="uniform|training|FILE", help="class prior of the pictures to predict")
    parser.add_argument("--source", metavar="uniform|training|FILE", help="the model's prior; default: by its loss")
    parser.add_argument("--gla", action="store_true", help="add zero-shot CLIP, without its label bias")
    parser.add_argument("--temperature", type=number_or("fit", 0.001, 1000), metavar="fit|T", help="divides the logits")
    images = parser.add_mutually_exclusive_group()
    images.add_argument(
        "--on",
        type=fitting_split,
        metavar="val|train",
        help="images for sweep and fit; default: val, if there are any",
    )
    images.add_argument("--logits", type=Path, metavar="FILE", help="a file of save_logits True for sweep and fit")
    parser.add_argument("--dry-run", action="store_true", help="show the numbers, and write nothing")
    parser.add_argument("--reset", action="store_true", help="remove the adjustment")
    parser.add_argument("--root", metavar="FOLDER", help="folder of the images, if it has moved")
    add_model_options(parser)
    args = parser.parse_args(arguments)
    given = [f"--{name.replace('_', '-')}" for name in CHOSEN if getattr(args, name) not in (None, False)]
    if args.reset and given:
        parser.error(f"--reset removes the adjustment, and {given[0]} writes one; leave one of them out")
    if args.gla and (args.tau is not None or args.tau_norm is not None):
        parser.error("--gla has its own prior; leave --tau and --tau-norm out, or choose the prior by --target")
    if args.source and not (args.target or args.gla):
        parser.error("--source is the prior that --target or --gla start from; add one of them")
    args.shows = not given and not args.reset
    return args


def run(arguments: list[str]) -> int:
    """Fits, shows and writes; returns the exit status. Raises UserErrors."""
    args = parse(arguments)

    import run_adjustment  # heavy, so it comes after --help and wrong options

    if args.reset:
        run_adjustment.reset(args.run)
    elif args.shows:
        run_adjustment.show(args.run)
    else:
        run_adjustment.adjust(args)
    return 0


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(command.execute(run, sys.argv[1:], "the adjustment of the run is as it was"))
