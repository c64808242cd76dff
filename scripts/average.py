"""Averages the trainable tensors of runs into a new run directory, without training.

    python scripts/average.py RUN --alpha 0.5       WiSE-FT
    python scripts/average.py RUN RUN ...           a soup: the mean of the runs
    python scripts/average.py RUN RUN ... --greedy  a greedy soup
    python scripts/average.py RUN RUN --out output/SOUP

WiSE-FT (arXiv 2109.01903) moves a fine-tuned model towards the zero-shot one: (1 - alpha) theta_0 + alpha theta_1, with
alpha 0.5 by default. theta_0, the trainable tensors before the first step, is recomputed from the run's configuration.
Soups (arXiv 2203.05482) need runs of one backbone, method and classes, which may differ in seed, learning rate or loss.
A greedy soup contains the runs that raise the score on the validation images.

The new directory is tested like any run, with the flags of the first run: main.py ... test_only True model_dir OUT.
Images are read for --greedy, and for a head that was initialised from training images.

Exit status: 0 done, 1 failure, 2 wrong input, 130 Ctrl-C, 143 SIGTERM. DEBUG=1 shows the traceback.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import command
from model_options import add_model_options

from utils import terminal
from utils.errors import ConfigError
from utils.home import ensure_home

WISE_FT_ALPHA = 0.5  # the paper's choice if nothing is known about the test images (section 4)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = terminal.Parser(prog="scripts/average.py", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories")
    parser.add_argument("--alpha", type=float, metavar="A", help=f"one run: share of its end; default {WISE_FT_ALPHA}")
    parser.add_argument("--greedy", action="store_true", help="several runs: choose them by validation images")
    parser.add_argument("--score", default="mean_class", choices=("mean_class", "overall"), help="accuracy of --greedy")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the new directory; default: beside the first run")
    parser.add_argument("--root", metavar="FOLDER", help="folder of the images, if it has moved")
    add_model_options(parser)
    args = parser.parse_args(arguments)
    if len(args.runs) > 1 and args.alpha is not None:
        parser.error("--alpha is for one run, between its start and its end; several runs make a soup")
    if len(args.runs) == 1 and args.greedy:
        parser.error("--greedy chooses among several runs; name more of them")
    args.alpha = WISE_FT_ALPHA if args.alpha is None else args.alpha
    if not 0 <= args.alpha <= 1:
        parser.error(f"--alpha must be a number from 0 to 1, found {args.alpha:g}")
    return args


def output_directory(args: argparse.Namespace) -> Path:
    """The directory to write. Raises a ConfigError if it exists already."""
    first = args.runs[0] if args.runs[0].name not in ("", "..") else args.runs[0].resolve()
    soup = f"{'greedy_' if args.greedy else ''}soup_of_{len(args.runs)}"
    out = args.out or Path(f"{first}_{f'alpha_{args.alpha:g}' if len(args.runs) == 1 else soup}")
    if os.path.lexists(out):
        message = f"{out} exists already; delete it, or name another one: --out DIR"
        raise ConfigError(message, kind="output_exists", path=out)
    return out


def run(arguments: list[str]) -> int:
    """Averages, and writes the new run directory; returns the exit status. Raises UserErrors."""
    args = parse(arguments)
    out = output_directory(args)

    import run_averages  # heavy, so it comes after --help and wrong options

    sources = [run_averages.read_source(directory) for directory in args.runs]
    run_averages.require_alike(sources)
    average = run_averages.wise_ft(sources[0], args) if len(sources) == 1 else run_averages.soup(sources, args)
    run_averages.write(out, average, sources)
    terminal.say(f"{average.how}\nwritten   {out}; test it with main.py ... test_only True model_dir {out}")
    return 0


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(command.execute(run, sys.argv[1:], "nothing was written"))
