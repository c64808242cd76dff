"""Draws docs/images/idea.svg and architecture.svg: the idea in one block, and the way from images to a run's files.

    python scripts/draw_figures.py

The SVG is written as text, so that a drawing has the same bytes on every machine. Its background is white, for pages in
dark mode, and its letters are the reader's sans-serif: boxes are wide enough for DejaVu Sans, one of the widest.
"""

from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent

# fill and outline of a box
FROZEN = "#e7edf5", "#5f7391"
TRAINED = "#ffe4c4", "#cf7415"
PLAIN = "#ffffff", "#5f7391"
PANEL = "#f7f9fb", "#b8c4d3"
INK, FAINT = "#1d2733", "#5a6878"
HEAD = 7  # length of an arrow's head

Point = tuple[float, float]


def style(fill: str, stroke: str, width: float = 1.4) -> str:
    """The attributes of a shape."""
    return f'fill="{fill}" stroke="{stroke}" stroke-width="{width}" stroke-linejoin="round"'


def joined(points: list[Point]) -> str:
    """Points as SVG writes them."""
    return " ".join(f"{x:g},{y:g}" for x, y in points)


class Drawing:
    """An SVG of `width` x `height` pixels, to which each method adds a shape. Text is centred at its coordinates."""

    def __init__(self, width: int, height: int, title: str):
        self.lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="sans-serif" text-anchor="middle" role="img">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>',
        ]

    def text(self, x: float, y: float, words: str, size: int = 16, colour: str = INK, more: str = "") -> None:
        """One line, whose middle is at (x, y). more: attributes of SVG."""
        place = f'x="{x:g}" y="{y + 0.35 * size:g}" font-size="{size}"'
        self.lines.append(f'<text {place} fill="{colour}" {more}>{escape(words)}</text>'.replace(" >", ">"))

    def polygon(self, points: list[Point], colours: tuple[str, str]) -> None:
        """A closed shape."""
        self.lines.append(f'<polygon points="{joined(points)}" {style(*colours)}/>')

    def panel(self, x: float, y: float, width: float, height: float, title: str) -> None:
        """A large area with its title at the upper left."""
        self.box(x, y, width, height, colours=PANEL)
        self.text(x + 14, y + 22, title, 16, FAINT, 'text-anchor="start"')

    def box(
        self, x: float, y: float, width: float, height: float, *lines: str, colours: tuple[str, str] = PLAIN
    ) -> None:
        """A rectangle with a title and fainter lines below it. x, y: its upper left corner."""
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"'
        self.lines.append(f"<rect {place} {style(*colours)}/>")
        first = y + height / 2 - 9.5 * (len(lines) - 1)
        for i, words in enumerate(lines):
            self.text(x + width / 2, first + 19 * i, words, 16 if i == 0 else 14, INK if i == 0 else FAINT)

    def circle(self, x: float, y: float, sign: str) -> None:
        """An operation of two values, such as a sum."""
        self.lines.append(f'<circle cx="{x:g}" cy="{y:g}" r="11" {style(*PLAIN)}/>')
        self.text(x, y, sign)

    def line(self, *points: Point, colour: str = FROZEN[1], dashed: bool = False) -> None:
        """A line along the points."""
        dashes = ' stroke-dasharray="6 5"' if dashed else ""
        self.lines.append(f'<polyline points="{joined([*points])}" {style("none", colour, 1.6)}{dashes}/>')

    def arrow(self, *points: Point, colour: str = FROZEN[1], dashed: bool = False) -> None:
        """A line along the points, horizontal or vertical from one to the next, with a head at the last one."""
        (x0, y0), (x, y) = points[-2:]
        dx, dy = ((x > x0) - (x < x0)) * HEAD, ((y > y0) - (y < y0)) * HEAD
        self.line(*points[:-1], (x - dx, y - dy), colour=colour, dashed=dashed)
        base = [(x - dx + dy * side / 2, y - dy + dx * side / 2) for side in (1, -1)]
        self.lines.append(f'<polygon points="{joined([(x, y), *base])}" fill="{colour}"/>')

    def svg(self) -> str:
        """The whole file."""
        return "\n".join([*self.lines, "</svg>", ""])


def draw_idea() -> Drawing:
    """A frozen block with AdaptFormer beside the MLP; class names to the head's initial weights; the adjusted loss."""
    drawing = Drawing(960, 450, "LIFT+: a frozen CLIP, light trained modules, a head from class names, adjusted logits")
    middle, side, low = 122, 214, 352  # heights of the block's own path, of AdaptFormer, and of the class names
    for shift in (10, 5):
        drawing.box(92 + shift, 20 + shift, 506, 262, colours=PANEL)
    drawing.panel(92, 20, 506, 262, "one of the L blocks of the image tower")
    drawing.box(12, middle - 24, 64, 48, "image")

    # x + Attn(LN1(x)), and x + MLP(LN2(x)) + s Up(ReLU(Down(LN(x))))
    draw_residual(drawing, middle, (76, 126, 156, 318), "LN1", "attention")
    draw_residual(drawing, middle, (329, 350, 392, 568), "LN2", "MLP")
    orange = TRAINED[1]
    drawing.arrow((350, middle), (350, side), (364, side), colour=orange)
    drawing.box(364, side - 22, 36, 44, "LN", colours=TRAINED)
    drawing.polygon([(404, side - 27), (460, side - 15), (460, side + 15), (404, side + 27)], TRAINED)
    drawing.text(432, side, "Down", 15)
    drawing.text(480, side, "ReLU", 13, FAINT)
    drawing.polygon([(500, side - 15), (538, side - 27), (538, side + 27), (500, side + 15)], TRAINED)
    drawing.text(520, side, "Up", 15)
    drawing.text(547, side, "s", 16, orange, 'font-style="italic"')
    drawing.arrow((555, side), (568, side), (568, middle + 11), colour=orange)
    drawing.text(462, side + 47, "AdaptFormer, in every block", 15, orange)

    # head and loss
    drawing.arrow((579, middle), (640, middle))
    drawing.text(620, middle - 14, "f", 16, INK, 'font-style="italic"')
    drawing.box(640, middle - 38, 122, 76, "cosine head", "z = 25 cos(f, w)", "for each class", colours=TRAINED)
    drawing.arrow((762, middle), (800, middle))
    drawing.text(780, middle - 14, "z", 16, INK, 'font-style="italic"')
    drawing.box(800, middle - 38, 148, 76, "loss", "cross entropy of", "z + log prior")

    # class names and class counts
    drawing.box(12, low - 32, 124, 64, "class names", "sea otter, ...")
    drawing.arrow((136, low), (164, low))
    drawing.box(164, low - 32, 194, 64, "prompts", "a photo of a sea otter.")
    drawing.arrow((358, low), (386, low))
    drawing.box(386, low - 32, 124, 64, "text tower", "frozen", colours=FROZEN)
    drawing.arrow((510, low), (701, low), (701, middle + 38), dashed=True)
    drawing.text(604, low - 15, "text features", 15, FAINT)
    drawing.text(711, 240, "initial", 15, FAINT, 'text-anchor="start"')
    drawing.text(711, 260, "weights w,", 15, FAINT, 'text-anchor="start"')
    drawing.text(711, 280, "once", 15, FAINT, 'text-anchor="start"')
    drawing.box(800, low - 32, 148, 64, "class counts", "of the long tail")
    drawing.arrow((874, low - 32), (874, middle + 38))
    drawing.text(884, 250, "prior", 15, FAINT, 'text-anchor="start"')

    drawing.box(92, 414, 18, 18, colours=FROZEN)
    drawing.text(120, 423, "frozen", 15, FAINT, 'text-anchor="start"')
    drawing.box(212, 414, 18, 18, colours=TRAINED)
    drawing.text(
        240,
        423,
        "trained: 0.6 million parameters in the blocks (0.7 %), 0.8 million in the head; ViT-B/16, 1,000 classes",
        15,
        FAINT,
        'text-anchor="start"',
    )
    return drawing


def draw_residual(drawing: Drawing, y: float, xs: tuple[float, float, float, float], norm: str, layer: str) -> None:
    """x + layer(norm(x)), frozen. xs: of the incoming arrow, of the branch, of the norm's box and of the sum."""
    start, branch, left, end = xs
    drawing.arrow((start, y), (left, y))
    drawing.line((branch, y), (branch, 66), (end, 66))
    drawing.arrow((end, 66), (end, y - 11))
    drawing.box(left, y - 22, 42, 44, norm, colours=FROZEN)
    drawing.arrow((left + 42, y), (left + 54, y))
    drawing.box(left + 54, y - 22, 84, 44, layer, colours=FROZEN)
    drawing.arrow((left + 138, y), (end - 11, y))
    drawing.circle(end, y, "+")


def draw_architecture() -> Drawing:
    """From a command and lists of images to a run directory, and from there to predictions, a report, an export."""
    drawing = Drawing(960, 556, "Data flow: configuration, loader, model, loss and scores, run directory, scripts")
    top, middle, low = 46, 232, 478  # heights of the three rows

    drawing.box(12, top - 32, 210, 64, "command, YAML files", "main.py, configs/")
    drawing.arrow((222, top), (270, top))
    drawing.box(270, top - 32, 190, 64, "configuration", "utils/config")
    drawing.arrow((460, top), (508, top))
    drawing.box(508, top - 32, 190, 64, "Trainer", "trainer.py")
    drawing.arrow((603, top + 32), (603, 112))
    drawing.text(614, 94, "builds; then fit, predict, evaluate", 14, FAINT, 'text-anchor="start"')

    drawing.panel(12, 112, 936, 258, "training and testing")
    drawing.box(28, middle - 42, 150, 84, "image lists", "datasets/sets", "datasets/own")
    drawing.arrow((178, middle), (214, middle))
    drawing.box(214, middle - 42, 176, 84, "loader", "decodes and crops", "datasets/loading")
    drawing.arrow((390, middle), (496, middle))
    drawing.text(440, middle - 15, "uint8", 14, FAINT)
    drawing.box(496, middle - 56, 200, 112, "Model", "models/backbones", "models/peft", "models/heads")
    drawing.text(302, middle + 62, "crops and their order depend", 14, FAINT)
    drawing.text(302, middle + 81, "on seed, epoch and image alone", 14, FAINT)

    drawing.line((696, middle), (758, middle))
    drawing.text(727, middle - 15, "logits", 14, FAINT)
    drawing.arrow((758, middle), (758, 190), (776, 190))
    drawing.arrow((758, middle), (758, 276), (776, 276))
    drawing.box(776, 158, 158, 64, "loss", "models/losses.py")
    drawing.box(776, 244, 158, 64, "scores", "utils/evaluators.py")
    drawing.arrow((855, 158), (855, 136), (596, 136), (596, middle - 56))
    drawing.text(686, 150, "gradients: utils/optim.py", 14, FAINT)

    drawing.line((596, middle + 56), (596, 400))
    drawing.text(606, 345, "trainable tensors", 14, FAINT, 'text-anchor="start"')
    drawing.text(845, 345, "results", 14, FAINT, 'text-anchor="end"')
    drawing.arrow((855, 308), (855, 400), (150, 400), (150, low - 54))
    drawing.box(
        12,
        low - 54,
        276,
        120,
        "run directory",
        "checkpoint, results,",
        "predictions, curves, log",
        "utils/run",
    )
    drawing.arrow((288, low + 6), (324, low + 6))
    drawing.panel(324, low - 54, 624, 120, "scripts/")
    uses = [
        ("predict.py", "new pictures"),
        ("report.py", "one page"),
        ("adjust.py", "logits"),
        ("export.py", "ONNX, torch"),
    ]
    for i, (script, what) in enumerate(uses):
        drawing.box(340 + 151 * i, low - 16, 139, 64, script, what)
    return drawing


FIGURES: dict[str, Callable[[], Drawing]] = {"idea": draw_idea, "architecture": draw_architecture}


def main() -> None:
    """Writes each figure to docs/images."""
    for name, draw in FIGURES.items():
        path = ROOT / f"docs/images/{name}.svg"
        path.write_text(draw().svg(), encoding="utf-8")
        print(f"written   {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
