"""Exports the model of a run for other programs.

    python scripts/export.py RUN --to onnx      model.onnx, predict_onnx.py
    python scripts/export.py RUN --to torch     model.pt2, for torch.export.load
    python scripts/export.py RUN --to merged    weights for timm or open_clip
    python scripts/export.py RUN --to onnx --precision fp16 --push OWNER/NAME

RUN is a run directory. predict_onnx.py classifies pictures without torch. Merged weights are those of the backbone with
everything trained in it. The exported model is compared with the run's on test images, or on random images if the data
is missing. model.json (classes, images, origin) and README.md, a model card, are written beside it.

Exit status: 0 done, 1 failure or a different exported model (nothing is written), 2 wrong input, 130 Ctrl-C,
143 SIGTERM. DEBUG=1 shows the traceback.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from command import execute

from utils import terminal
from utils.home import ensure_home


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = terminal.Parser(prog="scripts/export.py", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("--to", choices=["onnx", "torch", "merged"], required=True)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: RUN/export_FORMAT_PRECISION")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="of the stored weights")
    parser.add_argument("--weights", metavar="FILE", help="the backbone's weights, if they have moved")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload to this repository of the Hugging Face hub")
    parser.add_argument("--private", action="store_true", help="with --push: make a private repository")
    return parser.parse_args(arguments)


def run(arguments: list[str]) -> int:
    """Exports, and uploads if requested; returns the exit status. Raises UserErrors."""
    args = parse(arguments)

    # heavy imports come after --help and wrong options
    from exporting import export
    from sharing import model_card, push

    from models.export.comparison import Deviation

    folder = args.out or args.run / f"export_{args.to}_{args.precision}"
    try:
        export(args.run, args.to, folder, args.precision, args.weights, model_card)
    except Deviation as error:
        terminal.say(f"error: {error}", error=True)
        return 1
    terminal.say(f"exported  {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    if args.push:
        terminal.say(f"uploaded  {push(folder, args.push, args.private)}")
    return 0


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit status."""
    return execute(run, arguments, "nothing was exported")


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main(sys.argv[1:]))
