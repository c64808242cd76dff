"""What test_distributed.py starts with torchrun: every process runs the same trainings, one after the other.

    torchrun --nproc_per_node=2 tests/distributed_runs.py OUTPUT '[["lift+", "seed", "1"], ["coop"]]'

OUTPUT is the first part of the run directories' names; the JSON list holds a method and its options for each run.
"""

import dataclasses
import json
import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from datasets import DATASETS
from datasets.sets import digits_lt
from trainer import run
from utils.config import load_config


def train_all(output: str, runs: list[list[str]]) -> None:
    """Trains and tests each run in output/OUTPUT_NUMBER, with every other image: 171 to train with, 250 to test."""
    data = digits_lt.build()
    train, test = (part.subset(slice(None, None, 2)) for part in (data.train, data.test))
    half = dataclasses.replace(data, train=train, test=test)
    with mock.patch.dict(DATASETS, {"digits_lt": lambda *_: half}):
        for number, (method, *options) in enumerate(runs):
            cfg = load_config("digits_lt", "clip_tiny", method, [*options, "output_dir", f"{output}_{number}"])
            run(cfg, "torchrun")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    train_all(sys.argv[1], json.loads(sys.argv[2]))
    torch.distributed.destroy_process_group()
