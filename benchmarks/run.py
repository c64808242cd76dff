"""Measures our program against a plain one on the same work, and prints one table.

    python benchmarks/run.py --quick                  a CPU, under 5 minutes: make bench
    python benchmarks/run.py --device cuda            a GPU
    python benchmarks/run.py --stage train test       some stages
    python benchmarks/run.py --ablation               what each means brings by itself
    python benchmarks/run.py --profile                where a training step and a forward pass spend their time
    python benchmarks/run.py compile always --stage train      with options of main.py, KEY VALUE

Work: ViT-B/16 at 224 pixels, CLIP's geometry, random weights, AdaptFormer in all blocks, cosine head, LA loss, 1000
classes. The plain program is benchmarks/baseline.py. docs/performance.md says how to read the table.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from benchmarks import ablation, report
from benchmarks.inputs import photographs, write_weights
from benchmarks.stages import STAGES
from benchmarks.timing import CLOCK, NEIGHBOURS, matrix_products, median, tokens
from benchmarks.work import CPU, GPU, Bench, Plan
from utils.device import device as machine

QUICK = {"names": 64}  # what is left out: the plain program alone takes minutes for 8,142 names on a CPU

ONE_THREAD = {"train_images": 4, "test_images": 4, "crops_images": 1, "squares": (2048,), "names": 16}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--stage", nargs="+", choices=list(STAGES), default=list(STAGES), metavar="STAGE")
    parser.add_argument("--quick", action="store_true", help=f"fewer names: {QUICK['names']} in place of 8,142")
    parser.add_argument("--ablation", action="store_true", help="what each means brings by itself")
    parser.add_argument("--profile", action="store_true", help="where a step and a forward pass spend their time")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each measurement")
    parser.add_argument("--patience", type=float, default=30, help="seconds to wait, in all, for a quiet machine")
    parser.add_argument("--cpu-time", action="store_true", help="one thread's CPU time, for a CPU that others use, too")
    parser.add_argument("--json", type=Path, default=Path("output/bench.json"), help="file of all numbers")
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help="for our program, as for main.py")
    return parser.parse_intermixed_args(arguments)


def make_bench(plan: Plan, device: torch.device, folder: Path) -> Bench:
    paths = photographs(folder, plan.photos)
    return Bench(plan, device, folder, paths, write_weights(folder / "weights.safetensors", plan.geometry))


def model_rates(bench: Bench) -> dict[str, float]:
    """FLOP/s of the large matrix products and of the model's own four."""
    d, rows = bench.plan.geometry.dim, bench.plan.train_images * tokens(bench.plan.geometry)
    shapes = [(rows, d, 3 * d), (rows, d, d), (rows, d, 4 * d), (rows, 4 * d, d)]
    seconds = bench.turns(bench.products | matrix_products(bench.device, shapes))
    return {name: 1 / median(values) for name, values in seconds.items()}


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    begin, device = time.perf_counter(), torch.device(args.device)
    plan = dataclasses.replace(GPU if args.device == "cuda" else CPU, repeats=args.repeats, options=tuple(args.options))
    plan = dataclasses.replace(plan, **QUICK) if args.quick else plan
    NEIGHBOURS.patience = args.patience
    if args.cpu_time:
        machine.THREADS, CLOCK["now"], NEIGHBOURS.patience = 1, time.process_time, 0
        plan = dataclasses.replace(plan, **ONE_THREAD)
    torch.set_num_threads(machine.THREADS)
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(plan, device, Path(folder))
        if args.profile:
            print(ablation.profile(bench))
            return
        rates = {} if args.ablation else model_rates(bench)
        about = report.machine(device, rates)
        rows = []
        stages = ablation.MEANS if args.ablation else {name: STAGES[name] for name in args.stage}
        for stage in stages.values():
            for row in stage(bench):
                rows.append(row)
                print(f"{time.perf_counter() - begin:4.0f} s  {report.short(row)}", file=sys.stderr)
    about |= {"seconds": time.perf_counter() - begin, "neighbours": NEIGHBOURS.met}
    print(report.table(rows, about))
    report.write_json(args.json, rows, about)


if __name__ == "__main__":
    main(sys.argv[1:])
