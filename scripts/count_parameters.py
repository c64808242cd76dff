"""Prints the number of trainable parameters of each method, as the Markdown of docs/parameters.md.

    python scripts/count_parameters.py > docs/parameters.md
    python scripts/count_parameters.py -b clip_vit_l14 --classes 8142
    python scripts/count_parameters.py v.adaptformer_dim 64 v.lora_dim 16

KEY VALUE pairs apply to all methods. No weights are needed: the image tower has shapes, but no values.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from command import execute

from utils import terminal
from utils.config import Config, config_names, load_config
from utils.errors import ModelError
from utils.home import ensure_home
from utils.text import visible

if TYPE_CHECKING:
    from models.backbones.backbone import Backbone

DATA = "cifar100"  # any data set whose file does not change the counts


def empty_backbone(cfg: Config) -> "Backbone":
    """The backbone of `cfg`: the image tower on the meta device, the text tower as far as class names need it."""
    import torch  # heavy, so it comes after --help and wrong options

    from models.backbones.backbone import Backbone
    from models.weights.descriptions import describe_backbone

    with torch.device("meta"):
        known = describe_backbone(cfg.backbone, cfg.weights)
        if known.config is None:
            raise ModelError("its sizes are those of a weight file; give weights", kind="weights_required")
        backbone = Backbone(known.config)
    backbone.mean, backbone.std = known.mean, known.std
    if backbone.text is not None:
        if not any(value is True for value in cfg.l.values()):
            backbone.text.blocks = backbone.text.blocks[:0]  # slow, and without effect on the counts
        backbone.text.to_empty(device="cpu")
        torch.nn.init.ones_(backbone.text.token_embedding.weight)  # zeros would be words outside its vocabulary
        for name, parameter in backbone.named_parameters(recurse=False):
            if not name.startswith("image"):
                setattr(backbone, name, torch.nn.Parameter(torch.ones_like(parameter, device="cpu")))
    return backbone


def count(cfg: Config, num_classes: int) -> dict[str, int]:
    """`peft` and `head` of the model that `cfg` describes, and `tower`, the bare image tower. Raises ModelError."""
    from models import build_model, count_parameters

    backbone = empty_backbone(cfg)
    tower = sum(parameter.numel() for parameter in backbone.image.parameters())
    model = build_model(cfg, backbone, ["x"] * num_classes, start=False)
    return count_parameters(model) | {"tower": tower}


def table(backbone: str, num_classes: int, options: list[str]) -> list[str]:
    """A line for each method. Raises ConfigError."""
    lines = [
        "| method | in the backbone | share of the image tower | in the head | in all |",
        "|---|---:|---:|---:|---:|",
    ]
    for method in config_names("method"):
        cfg = load_config(DATA, backbone, method, options)
        try:
            params = count(cfg, num_classes)
        except ModelError as error:
            lines.append(f"| {method} | {str(error).partition(';')[0]} | | | |")
            continue
        share = f"{100 * params['peft'] / params['tower']:.3f} %"
        cells = f"{params['peft']:,} | {share} | {params['head']:,} | {params['trained']:,}"
        lines.append(f"| {method} | {cells} |")
    return lines


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = terminal.Parser(prog="scripts/count_parameters.py", description=__doc__)
    parser.add_argument("-b", dest="backbone", default="clip_vit_b16", help="as of main.py (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=1000, help="number of classes (default: %(default)s)")
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help="keys for all methods; see main.py --help all")
    return parser.parse_intermixed_args(arguments)


def run(arguments: list[str]) -> int:
    """Prints the page; returns the exit status. Raises ConfigError."""
    args = parse(arguments)
    lines = table(args.backbone, args.classes, args.options)
    command = shlex.join(["python", "scripts/count_parameters.py", *arguments])
    terminal.say("# Trainable parameters\n")
    terminal.say(
        f"All methods of configs/method on {args.backbone} with {args.classes:,} classes. The papers count the"
    )
    terminal.say("trainable parameters of the backbone, including CoOp's learnt context, without the head.\n")
    terminal.say(f"    {visible(command)}\n")
    terminal.say("\n".join(lines))
    return 0


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit status."""
    return execute(run, arguments, "the page is not complete")


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main(sys.argv[1:]))
