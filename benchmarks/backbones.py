"""Measures the speed of image towers of size B, and prints the table of docs/backbones.md.

    python benchmarks/backbones.py --batch 8

Images per second and core in a forward pass in float32 with random weights, relative to clip_vit_b16. The towers take
turns in one process, and CPU time is measured, so that other load on the machine has little effect.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from benchmarks.timing import take_turns
from models.weights.descriptions import describe_name

BASE = "clip_vit_b16"
# resolutions; None: the default of a run
TOWERS: dict[str, tuple[int | None, ...]] = {
    BASE: (None,),
    "laion2b_vit_b16": (None,),
    "in21k_vit_b16": (None,),
    "siglip2_vit_b16": (None,),
    "pe_core_vit_b16": (None,),
    "eva02_vit_b16": (None,),
    "dinov2_vit_b14": (None,),
    "dinov2_reg_vit_b14": (None,),
    "dinov3_vit_b16": (None, 224),
}
REPEATS, CPU = 5, torch.device("cpu")


def prepare(name: str, resolution: int | None, batch: int) -> tuple[int, int, Callable[[], float]]:
    """The resolution and the number of tokens of a tower, and a function that returns the CPU seconds of a batch."""
    known = describe_name(name)
    assert known.config is not None
    config = known.config.image.at(resolution or known.resolution or known.config.image.resolution)
    tower = config.build().eval()
    images = torch.randn(batch, 3, config.resolution, config.resolution)

    def run() -> float:
        start = time.process_time()
        with torch.inference_mode():
            tower(images)
        return time.process_time() - start

    run()  # warms up
    return config.resolution, tower.num_tokens, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="images of a forward pass (default: %(default)s)")
    batch = parser.parse_args().batch
    torch.set_num_threads(1)
    towers = {(name, size): prepare(name, size, batch) for name, sizes in TOWERS.items() for size in sizes}
    seconds = take_turns({f"{name} {size}": run for (name, size), (*_, run) in towers.items()}, REPEATS, CPU)
    base = seconds[f"{BASE} None"]
    print("| `-b` | pixels | tokens | images/s, relative | images/s of a core |")
    print("|---|---:|---:|---:|---:|")
    for (name, size), (resolution, tokens, _) in towers.items():
        own = seconds[f"{name} {size}"]
        ratio = statistics.median(b / a for a, b in zip(own, base, strict=True))
        print(f"| `{name}` | {resolution} | {tokens} | {ratio:.2f} | {batch / statistics.median(own):.1f} |")


if __name__ == "__main__":
    main()
