"""Trains the same runs with several processes; tests/utils/test_distributed.py starts it.

    python tests/distributed_runs.py '{"2": RUNS, "4": RUNS}'                             processes forked from this one
    torchrun --nproc_per_node=2 tests/distributed_runs.py '{"2": RUNS}'                    processes of torchrun
    python tests/distributed_runs.py --standalone --nproc_per_node 2 '{"2": RUNS}'        the same, forked by torchrun

RUNS: a list with a method and its options for each run, [["lift+", "seed", "1"], ["coop"]]. The run directories are
output/PROCESSES_NUMBER. "lift+@6": the last process gets SIGUSR1 in the 6th step, and the run is resumed. Forked
processes share one import of all packages, which would take most of the time.
"""

import dataclasses
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.distributed.run
from torch.distributed.launcher.api import elastic_launch

from datasets import DATASETS
from datasets.sets import digits_lt
from models.backbones.tokenizer import tokenize
from trainer import Trainer, run
from utils.config import load_config
from utils.device.distributed import Distributed
from utils.run.stopping import Stopped, Stopping


def train_all(processes: int, runs: list[list[str]]) -> None:
    """Trains and tests each run with few images of digits_lt: 91 to train, at most 12 of a class, 125 to test."""
    data = digits_lt.build()
    train, test = data.train.subset(data.train.some_of_each(10, 12)), data.test.subset(slice(None, None, 4))
    few = dataclasses.replace(data, train=train, test=test)
    with mock.patch.dict(DATASETS, {"digits_lt": lambda *_: few}):
        for number, (method, *options) in enumerate(runs):
            method, _, step = method.partition("@")
            cfg = load_config("digits_lt", "clip_tiny", method, [*options, "output_dir", f"{processes}_{number}"])
            if step:
                interrupt(cfg, int(step))
            run(cfg, "torchrun")


def interrupt(cfg, step: int) -> None:
    """Trains until the last process receives SIGUSR1 in this step, and all of them have ended."""
    stopping, steps = Stopping(), iter(range(1, 10**6))

    def warn(*_) -> None:
        if next(steps) == step and trainer.distributed.rank == trainer.distributed.size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    with stopping.handled(), Trainer(cfg, "torchrun", stopping) as trainer:
        trainer.loss.register_forward_hook(warn)
        try:
            trainer.fit()
        except Stopped:
            pass
        else:
            raise AssertionError("it was not stopped")


def run_rank(rank: int, processes: int, store: str, runs: list[list[str]]) -> None:
    """Does the work of one of several processes, in the environment that torchrun would set."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    train_all(processes, runs)
    torch.distributed.destroy_process_group()


def train_in_torchruns_processes(runs_by_count: str) -> None:
    """Does the work of a process that torchrun has started. After a failure in all of them, the first one ends last."""
    distributed = Distributed()
    try:
        # torchrun's store keeps the addresses of its first group, so that all runs take part in that one
        with distributed.process_group(torch.device("cpu")):
            for count, runs in json.loads(runs_by_count).items():
                train_all(int(count), runs)
    except Exception:
        if distributed.is_main:
            time.sleep(2)  # torchrun reports the process that ends first, and ends this one
        raise


def fork_by_torchrun(*arguments: str) -> None:
    """torchrun with these arguments: its own agent, environment and store, but processes forked from this one."""

    def launch(config, entrypoint):
        return elastic_launch(config, lambda *words: train_in_torchruns_processes(words[-1]))

    *options, runs_by_count = arguments
    with mock.patch.object(torch.distributed.run, "elastic_launch", launch):
        torch.distributed.run.main([*options, "--start_method", "fork", __file__, runs_by_count])


def prepare_forks() -> None:
    """Imports and reads what takes seconds in each process that has not done it before the fork."""
    for name in ("sklearn.datasets", "torch._dynamo", "torch.utils.tensorboard"):
        importlib.import_module(name)
    tokenize(["a word"])  # reads the vocabulary


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        train_in_torchruns_processes(sys.argv[1])
        sys.exit()
    prepare_forks()
    if len(sys.argv) > 2:
        fork_by_torchrun(*sys.argv[1:])
        sys.exit()
    for count, runs_of_count in json.loads(sys.argv[1]).items():
        with tempfile.TemporaryDirectory() as folder:
            args = (int(count), f"{folder}/store", runs_of_count)
            torch.multiprocessing.start_processes(run_rank, args, nprocs=int(count), start_method="fork")
