"""What only a fresh process can show: the peak of its memory, and the time from its start to the first step."""

import multiprocessing
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.baseline import PlainClassifier, PlainTrainer
from benchmarks.inputs import make_data, species
from benchmarks.timing import NEIGHBOURS
from benchmarks.work import Plan, build_ours, config

FIRST_STEP = Path(__file__).with_name("first_step.py")


# ---- memory ----


def peak_mb(which: str, plan: Plan, device: torch.device, folder: Path, paths: list[str], weights: Path) -> float:
    """The most memory, MB, that `which` program ("ours", "plain") needs for a step, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak = pool.apply(peak_here_mb, (which, plan, device, folder, paths, weights))
        pool.close()
        pool.join()
    return peak


def peak_here_mb(which: str, plan: Plan, device: torch.device, folder: Path, paths: list[str], weights: Path) -> float:
    """As peak_mb, in this process."""
    count, side = plan.memory_images, plan.geometry.resolution
    data = make_data(paths, plan.num_classes)
    labels = torch.arange(count) % plan.num_classes
    if device.type == "cpu":
        torch.ones(8, 8, requires_grad=True).square().sum().backward()  # what autograd loads is not the model's
    before = _high_water_mb()
    if which == "ours":
        ours = build_ours(config(folder, weights, device, plan, "batch_size", count), data)
        images = torch.zeros(count, 3, side, side, dtype=torch.uint8)
        steps = [ours.train_step(images.to(device), labels.to(device)) for _ in range(2)]
    else:
        counts = torch.from_numpy(data.class_counts)
        plain = PlainTrainer(PlainClassifier(plan.geometry, plan.width, plan.num_classes), counts, 0.01, device)
        images = torch.zeros(count, 3, side, side)
        steps = [plain.train_step(images, labels) for _ in range(1 if device.type == "cpu" else 2)]
    del steps
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else _high_water_mb() - before


def _high_water_mb() -> float:
    """The most memory this process has had, MB. Not ru_maxrss, where Linux tells: a child begins with its parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


# ---- start ----


def start_seconds(plan: Plan, device: torch.device, folder: Path, paths: list[str], weights: Path) -> list[float]:
    """Seconds from the start of Python to the first step, of each of plan.starts runs of main.py on class folders."""
    root, mark = class_folders(folder / "classes", paths, plan.num_classes), folder / "first_step"
    gpu = device.index or 0 if device.type == "cuda" else -1
    options = ["root", root, "weights", weights, "gpu", gpu, *plan.options]
    seconds = []
    for turn in range(plan.starts):
        output = ["output_dir", (folder / f"start{turn}").absolute()]
        command = [sys.executable, FIRST_STEP, mark, "-d", "folder", "-b", "clip_vit", "-m", "lift+"]
        NEIGHBOURS.wait()
        begin = time.time()
        done = subprocess.run([str(word) for word in (*command, *options, *output)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{FIRST_STEP.name} failed: {done.stderr}")
        seconds.append(float(mark.read_text()) - begin)
    return seconds


def class_folders(root: Path, paths: list[str], num_classes: int) -> Path:
    """ROOT/train/CLASS/ with two images each and ROOT/test/CLASS/ with one: links to the photographs."""
    for number, name in enumerate(species(num_classes)):
        for split, copies in (("train", 2), ("test", 1)):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for copy in range(copies):
                link = root / split / name / f"{number}_{copy}.jpg"
                if not link.exists():
                    os.link(paths[(2 * number + copy) % len(paths)], link)
    return root
