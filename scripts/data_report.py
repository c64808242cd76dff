"""The report of scripts/check_data.py: lines of text, and a figure of the long tail."""

import warnings
from pathlib import Path

import numpy as np

from datasets.base import SPLITS, DataSet
from datasets.check.bad_images import BAD_IMAGES, quoted
from datasets.check.check import SMALL_SIDE, Check
from utils.files import atomic_write
from utils.text import duration, rate

COLOURS = {"many": "#0072B2", "medium": "#E69F00", "few": "#C1272D"}
SHOWN = 10  # lines of each kind; the files have all of them
FEW_BITS, MIXED_SHARE = 13, 0.1  # a note if more than this share of 16-bit pictures use at most so many bits
NAMED_BARS = 40  # most classes with names below the figure


# ---- lines ----


def text(check: Check) -> list[str]:
    """The report for the terminal and report.txt, one finding per line. Names may have control characters."""
    total, shorter = len(check.sizes), np.sort(check.sizes.min(axis=1))
    lines = [
        *check.data.summary().splitlines(),
        f"decoded   {total:,} images in {duration(check.seconds)}, {rate(total / check.seconds)}",
    ]
    shorter = shorter[shorter > 0]
    if len(shorter):
        middle = shorter[len(shorter) // 2]
        lines.append(f"sizes     shorter side {shorter[0]:,} to {shorter[-1]:,} pixels, median {middle:,}")
    return [*lines, "", *_tail(check), "", *_problems(check), *_notes(check)]


def duplicate_lines(check: Check) -> list[str]:
    """Every image that has duplicates, with its list and class; an empty line between two contents."""
    names, labels, classes = check.names, check.labels, check.data.classnames
    lines = []
    for images in check.duplicates:
        lines += [f"{quoted(names[image])}\t{check.split(image)}\t{classes[labels[image]]}" for image in images] + [""]
    return lines


def advice(check: Check, folder: Path) -> list[str]:
    """The next steps, and the paths of the files."""
    lines = []
    if check.bad:
        lost = int(((check.data.class_counts > 0) & (check.good_counts == 0)).sum())
        then = f"; {_count(lost, 'class')} would have no training image left" if lost else ""
        lines.append(f"fix the bad images, or add `bad_images skip` to runs of main.py to leave them out{then}")
    if check.leaks or check.contradictions:
        lines.append(f"remove duplicates, or copy them from duplicates.txt to {BAD_IMAGES} and add `bad_images skip`")
    if depth := check.advised_bit_depth:
        lines.append(f"add `bit_depth {depth}` to runs of main.py, so that pictures of 16 bits are not too dark")
    return [*lines, f"written   {folder}/: report.txt, report.json, {BAD_IMAGES}, duplicates.txt, long_tail.png"]


def _tail(check: Check) -> list[str]:
    """The shot groups, and the ends of the tail."""
    data, counts = check.data, check.data.class_counts
    columns = {"classes": np.ones_like(counts), "training": counts}
    if (check.good_counts < counts).any():
        columns["readable"] = check.good_counts  # of the training images
    others = {SPLITS[split]: images for split, images in data.lists.items() if split != "train"}
    columns |= {word: np.bincount(images.labels, minlength=len(counts)) for word, images in others.items()}
    lines = [f"{'':10}{''.join(f'{title:>12}' for title in columns)}"]
    for group, mask in data.groups.items():
        lines.append(f"{group:10}{''.join(f'{numbers[mask].sum():12,}' for numbers in columns.values())}")
    order = np.argsort(-counts, kind="stable")
    present = order[counts[order] > 0]

    def some(classes: np.ndarray) -> str:
        return ", ".join(f"{data.classnames[c]} {counts[c]:,}" for c in classes)

    factor = counts[present[0]] / counts[present[-1]]
    lines += [
        f"largest   {some(present[:5])}",
        f"smallest  {some(present[5:][-5:] if len(present) > 5 else present[-1:])}",
        f"imbalance {factor:,.1f}",
    ]
    for split in ("training", *others):
        numbers = columns[split]
        empty = [data.classnames[c] for c in np.flatnonzero(numbers == 0)]
        if empty:
            more = f" and {len(empty) - 5:,} more" if len(empty) > 5 else ""
            lines.append(f"no {split} images: {', '.join(empty[:5])}{more}")
    return lines


def _problems(check: Check) -> list[str]:
    if check.ok:
        return ["no problems: every image exists and can be decoded, and none is in two lists", ""]
    names, lines = check.names, ["PROBLEMS"]
    for kind in ("missing", "unreadable"):
        reasons = [f"{names[image]}: {found.reason}" for image, found in check.bad.items() if found.kind == kind]
        lines += _section(kind, reasons)
    lists = " and in ".join(["training", "test"] if check.data.val is None else ["one list", "another"])
    lines += _section(f"the same image in {lists}", _equal(check, check.leaks))
    lines += _section("the same image under two labels", _equal(check, check.contradictions))
    return [*lines, ""]


def _notes(check: Check) -> list[str]:
    names = check.names
    small = [f"{names[image]}: {width} x {height}" for image, (height, width) in check.small.items()]
    title = f"suspiciously small, a side below {SMALL_SIDE} pixels"
    lines = [f"  {title}: all {len(small):,}"] if len(small) == len(names) else _section(title, small)
    lines += _section("more than once in one list and class", _equal(check, check.repeats))
    lines += _depth(check)
    return ["NOTES", *lines, ""] if lines else []


def _depth(check: Check) -> list[str]:
    """Notes on 16-bit pictures that use little of their range, or exceed bit_depth."""
    depth, given, white = check.advised_bit_depth, check.bit_depth, 2 ** (check.bit_depth or 16) - 1
    pictures, largest = f"{_count(len(check.largest), 'picture')} of 16 bits", max(check.largest.values(), default=0)
    if depth:
        lines = [f"  dark, {depth} bits are used: {pictures}, largest number {largest:,} where white is {white:,}"]
        if above := check.above(depth):
            lines.append(f"    with bit_depth {depth}, numbers above {2**depth - 1:,} are white, in {above:,} of them")
        return lines
    if given:
        above = check.above(given)
        return [f"  numbers above {white:,}, white with bit_depth {given}: in {above:,} of {pictures}"] if above else []
    few = sum(number for bits, number in check.used_bits.items() if bits <= FEW_BITS)
    if few > MIXED_SHARE * len(check.largest):
        return [f"  dark, or of another camera: {few:,} of {pictures} use at most {FEW_BITS} bits, the others more"]
    return []


def _section(title: str, found: list[str]) -> list[str]:
    if not found:
        return []
    more = [f"    ... and {len(found) - SHOWN:,} more"] if len(found) > SHOWN else []
    return [f"  {title}: {len(found):,}", *(f"    {line}" for line in found[:SHOWN]), *more]


def _equal(check: Check, groups: list[list[int]]) -> list[str]:
    """A line for each group of equal images."""
    names, labels, classes = check.names, check.labels, check.data.classnames
    return [" = ".join(f"{names[image]} ({classes[labels[image]]})" for image in images) for images in groups]


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


# ---- the figure ----


def draw(data: DataSet, path: Path) -> None:
    """Draws the number of training images per class, sorted, on a logarithmic scale, coloured by shot group."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    counts, order = data.class_counts, np.argsort(-data.class_counts, kind="stable")
    figure, axes = pyplot.subplots(figsize=(10, 5), dpi=150, layout="constrained")
    edges, legend = np.arange(len(counts) + 1) - 0.5, []
    for group, mask in data.groups.items():
        label = f"{group}-shot: {_count(mask.sum(), 'class')}, {_count(counts[mask].sum(), 'image')}"
        if len(counts) <= NAMED_BARS:
            positions = np.flatnonzero(mask[order])
            axes.bar(positions, counts[order][positions], color=COLOURS[group])
        else:  # one outline, as thousands of bars are slow to draw
            heights = np.where(mask[order], counts[order], 0)
            axes.stairs(heights, edges, fill=True, color=COLOURS[group])
        legend.append(Patch(color=COLOURS[group], label=label))
    if len(counts) <= NAMED_BARS:
        _name_bars(axes, [data.classnames[c] for c in order], counts[order])
    axes.set_yscale("log")
    axes.set_ylim(0.7, 2 * counts.max())
    axes.margins(x=0.01)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
    axes.grid(axis="y", color="0.85", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(data.summary().partition("\n")[0], fontsize=11, parse_math=False)
    axes.set_ylabel("training images")
    empty = (counts == 0).sum()
    axes.set_xlabel(f"classes, from the largest to the smallest{f' ({empty:,} without images)' if empty else ''}")
    axes.legend(handles=legend, frameon=False, loc="upper right")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters in class names that the font lacks
        with atomic_write(path) as file:
            figure.savefig(file, format="png")
    pyplot.close(figure)


def _name_bars(axes, names: list[str], counts: np.ndarray) -> None:
    """Writes class names below the bars, and counts above them."""
    short = [name if len(name) <= 24 else f"{name[:23]}…" for name in names]
    axes.set_xticks(range(len(names)), short, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    for position, count in enumerate(counts):
        style = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "size": 8}
        axes.annotate(f"{count:,}", (position, max(count, 0.7)), **style)
