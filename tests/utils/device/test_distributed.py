"""Several processes compute the result of one: the same samples in every step, the same weights and scores."""

import fcntl
import itertools
import json
import os
from pathlib import Path

import cases
import fork_server
import numpy as np
import pytest
import torch
from distributed_runs import train_all
from helpers import refused

from datasets.loading.sampler import TrainBatchSampler
from utils.config import load_config
from utils.device.device import pick_device
from utils.device.distributed import FAILURE, Distributed, OtherProcessError
from utils.errors import ConfigError
from utils.run import checkpoint

ROOT = Path(__file__).resolve().parents[3]
FLOAT32 = ("prec_train", "fp32", "prec_test", "fp32")
BASE = (*FLOAT32, "num_workers", "0", "num_epochs", "2", "print_freq", "4", "gpu", "-1")
ONE_EPOCH, SAVED_CROPS = ("num_epochs", "1"), ("save_logits", "True", "tte", "True")
RUNS = [  # a method and its options; 91 images, so the last step of an epoch is smaller
    ("lift+", "batch_size", "22"),  # 3 in the last step: fewer than four processes
    ("lift+@3", "batch_size", "22", "checkpointing", "True"),  # 5 steps an epoch
    ("lift+", "batch_size", "16", "accum_step", "2", "loss_type", "CB", "classifier_init", "class_mean", *ONE_EPOCH),
    ("coop", "batch_size", "24", "accum_step", "2", "v.bitfit", "True", *SAVED_CROPS, *ONE_EPOCH),
    ("lp", "batch_size", "30", "classifier", "LinearClassifier", "num_workers", "1", *ONE_EPOCH),
    ("zs",),
    ("lift+", "batch_size", "22", "val_fraction", "0.2", "val_every", "1", "keep", "best"),
]


FOUR = RUNS[: 3 if cases.FULL else 2]  # also with four processes


def with_base(runs):
    """Whole command lines; only the first run writes a report."""
    return [[method, *BASE, *options, *(("report", "False") if i else ())] for i, (method, *options) in enumerate(runs)]


SCRIPT = str(ROOT / "tests/distributed_runs.py")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start_torchrun(runs, folder):
    """Starts distributed_runs.py with {2: runs} by torchrun; new processes, which take seconds, with --cases full."""
    options = ["--standalone", "--nproc_per_node", "2"]
    command = ["-m", "torch.distributed.run", *options, SCRIPT] if cases.FULL else [SCRIPT, *options]
    with open(folder / "printed.txt", "w") as printed:
        return fork_server.start([*command, json.dumps({2: runs})], folder, ENVIRONMENT, stdout=printed, stderr=printed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Contains output/PROCESSES_RUN for 1, 2 and 4 processes; created once for all processes of pytest."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "distributed"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            train_with_several(folder)
            (folder / "made").touch()
    return folder / "output"


def train_with_several(folder):
    runs = json.dumps({2: with_base(RUNS), 4: with_base(FOUR)})
    with open(folder / "printed.txt", "w") as printed:
        several = fork_server.start([SCRIPT, runs], folder, ENVIRONMENT, stdout=printed, stderr=printed)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_all(1, with_base(RUNS))
    assert several.wait(1800) == 0, (folder / "printed.txt").read_text()[-4000:]


def results(folder, processes, run):
    return json.loads((folder / f"{processes}_{run}/results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "run"), [*((2, run) for run in range(len(RUNS))), *((4, run) for run in range(len(FOUR)))]
)
def test_weights_and_scores_are_those_of_one_process(folder, processes, run):
    one, several = results(folder, 1, run), results(folder, processes, run)
    assert several["processes"] == processes
    assert several["accuracy"] == pytest.approx(one["accuracy"], abs=1.61)  # two images of 125 may tip
    assert sum(row["test"] for row in several["per_class"]) == 125
    if RUNS[run][0] == "zs":
        return
    if "@" in RUNS[run][0]:  # bit for bit
        files = [folder / f"{processes}_{i}" / "checkpoint.safetensors" for i in (run - 1, run)]
        assert files[0].read_bytes() == files[1].read_bytes()
    tensors = [checkpoint.load(folder / f"{n}_{run}" / "checkpoint.safetensors")[0] for n in (1, processes)]
    assert tensors[0].keys() == tensors[1].keys()
    expected, found = (torch.cat([tensor.flatten() for tensor in part.values()]) for part in tensors)
    assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_losses_on_the_way_are_those_of_one_process(folder, processes):
    for run in range(3 if processes == 2 else len(FOUR)):
        rows = [
            [json.loads(line) for line in (folder / f"{n}_{run}/metrics.jsonl").read_text().splitlines()]
            for n in (1, processes)
        ]
        for key in ("step", "loss", "accuracy", "lr"):
            assert [row[key] for row in rows[1]] == pytest.approx([row[key] for row in rows[0]], rel=1e-5), key


@pytest.mark.slow
def test_validation_is_that_of_one_process(folder):
    kept, rows = [], []
    for n in (1, 2):
        kept.append(results(folder, n, 6)["kept"])
        lines = map(json.loads, (folder / f"{n}_6/metrics.jsonl").read_text().splitlines())
        rows.append([line for line in lines if "epoch" in line])
    assert rows[0] == rows[1]
    assert [row["epoch"] for row in rows[0]] == [1, 2]
    assert kept[0] == kept[1]


@pytest.mark.slow
def test_saved_logits_are_those_of_one_process(folder):
    with np.load(folder / "1_3/logits_tte.npz") as one, np.load(folder / "2_3/logits_tte.npz") as several:
        assert (one["labels"] == several["labels"]).all()
        assert np.allclose(one["logits"], several["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_one_process_writes(folder):
    """Two processes leave the files of one."""
    for run in range(len(RUNS)):
        names = [
            sorted(path.name for path in (folder / f"{n}_{run}").iterdir() if "tfevents" not in path.name)
            for n in (1, 2)
        ]
        assert names[0] == names[1]
    log = (folder / "2_0/log.txt").read_text()
    assert log.count("backbone  clip_tiny") == 1
    for n in (1, 2):
        assert results(folder, n, 0)["data"]["trained_on"] == 0
    about = [checkpoint.load(folder / f"{n}_0" / "checkpoint.safetensors")[1] for n in (1, 2)]
    assert about[0] == about[1]
    assert about[0]["trained_on"][0]["contents"]
    assert "2 processes" in log


@pytest.mark.slow
def test_torchrun_starts_the_processes_and_an_error_ends_them_all(folder, tmp_path):
    """torchrun finds a port by itself; a run that is refused, after one that is not, fails in each process.

    The process that refuses ends last, so torchrun prints the error of the other.
    """
    process = start_torchrun(with_base([("zs",), ("lift+", "resolution", "4")]), tmp_path)
    assert process.wait(1800) != 0
    printed = (tmp_path / "printed.txt").read_text()
    assert (tmp_path / "output/2_0/results.json").exists(), printed[-4000:]
    found = results(tmp_path / "output", 2, 0)
    assert found["processes"] == 2
    assert found["accuracy"] == results(folder, 2, RUNS.index(("zs",)))["accuracy"]
    assert "resolution 4 is less than a patch" in printed


LOST = RuntimeError("[pair.cc:561] Connection closed by peer")  # gloo's


@pytest.fixture
def processes(monkeypatch):
    """The `Distributed` of two processes that share a store."""
    store, found = torch.distributed.HashStore(), []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        found.append(Distributed())
        found[-1]._store = store
    return found


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("error", [ConfigError("the list is empty"), OSError(28, "no space")], ids=["user", "other"])
def test_a_failure_is_the_reason_in_all_processes(processes, first, error):
    with pytest.raises(type(error)) as own, processes[first].shared_failures():
        raise error
    assert own.value is error
    for lost in (LOST, torch.distributed.DistNetworkError("reset")):
        blocks = processes[1 - first].shared_failures  # the outer one is that of the process group
        with pytest.raises(OtherProcessError) as other, blocks(), blocks():
            raise lost
        text = "the list is empty" if error.args == ("the list is empty",) else "OSError: [Errno 28] no space"
        assert str(other.value) == f"process {first} failed: {text}"


def test_a_process_has_its_own_reason_and_the_first_one_is_shared(processes):
    """The error of a process is never replaced by that of another, and neither is a lost connection without one."""
    with pytest.raises(RuntimeError, match="closed by peer"), processes[1].shared_failures():
        raise LOST
    processes[0]._store.delete_key(FAILURE)
    for error in (ConfigError("one"), ConfigError("two"), torch.OutOfMemoryError("three")):
        with pytest.raises(type(error), match=str(error)), processes[0].shared_failures():
            raise error
    with pytest.raises(OtherProcessError, match="process 0 failed: one"), processes[1].shared_failures():
        raise LOST


# ---- shares ----


@pytest.mark.parametrize("size, batch_size", [(50, 8), (51, 8), (7, 16), (33, 4)])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_processes_share_the_samples_of_the_same_steps(size, batch_size, ranks):
    whole = list(TrainBatchSampler(size, batch_size, seed=3, num_epochs=2))
    shares = [list(TrainBatchSampler(size, batch_size, 3, 2, rank=r, num_ranks=ranks)) for r in range(ranks)]
    assert {len(share) for share in shares} == {len(whole)}
    for step, *parts in zip(whole, *shares, strict=True):
        together = list(itertools.chain(*parts))
        assert len(together) == len(set(together))
        assert sorted(together) == sorted(step)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


# ---- devices ----


def processes_of(monkeypatch, size, local=0):
    for name, value in (("RANK", local), ("WORLD_SIZE", size), ("LOCAL_RANK", local)):
        monkeypatch.setenv(name, str(value))
    return Distributed()


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    assert pick_device(0, processes_of(monkeypatch, 4, local=3)) == torch.device("cuda", 3)
    assert pick_device(None, processes_of(monkeypatch, 4, local=2)) == torch.device("cuda", 2)
    assert pick_device(-1, processes_of(monkeypatch, 4, local=2)) == torch.device("cpu")
    assert pick_device(2, processes_of(monkeypatch, 1)) == torch.device("cuda", 2)
    with refused(ConfigError, kind="no_such_gpu", key="gpu"):
        pick_device(0, processes_of(monkeypatch, 8, local=4))


def test_gpu_none_takes_a_process_for_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with refused(ConfigError, kind="one_process_for_all_gpus", key="gpu"):
        pick_device(None, processes_of(monkeypatch, 1))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pick_device(None, processes_of(monkeypatch, 1)) == torch.device("cpu")
    assert load_config("digits_lt", "clip_tiny", "lift+", ["gpu", "None"]).gpu is None


def test_a_loss_that_couples_samples_takes_one_process(monkeypatch):
    processes_of(monkeypatch, 2)
    with refused(ConfigError, kind="needs_whole_batches", key="loss_type"):
        load_config("digits_lt", "clip_tiny", "lift+", ["loss_type", "LADE"])
