"""Short runs for fault tests: their commands, the states in which they are tried, and the expected outcome.

A run takes a tenth of a second: a ViT of one block, 45 digits or 24 pictures, two epochs of three steps.
"""

import dataclasses
import functools
import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import torch
from faults.client import Attempt, Outcome, Server, processes, wait_for
from faults.operations import CHANGES, RANDOM_PARTS, Fault, Operation, copy_name
from PIL import Image
from safetensors.torch import save_file

RUN = "output/run"
WEIGHTS = "tiny.safetensors"
MODEL = f"-b vit weights {WEIGHTS} activation gelu heads 1 mean half classifier_init class_mean -m lift+ gpu -1"
COMMON = f"{MODEL} prec_train fp32 prec_test fp32 output_dir run print_freq 3"
DIGITS = tuple(f"-d digits_lt {COMMON} num_epochs 2 batch_size 16 num_workers 0".split())
PICTURES = tuple(f"-d folder {COMMON} root pictures batch_size 8 resolution 32".split())
CHECK = ("-d", "folder", "root", "pictures")  # of scripts/check_data.py
TEST = ("test_only", "True", "save_logits", "True")
UNCOMPARED = ("seconds", "images_per_second", "peak_memory_mb", "command", "model")  # of results.json; paths in model
EARLIER = ("results.json", "checkpoint.safetensors", "metrics.jsonl", "config.yaml")  # of a run that is trained again
# Unicode's marks of direction (UAX 9)
TURNING = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
MARKS = {"\u061c", "\u200e", "\u200f", *(c for c in map(chr, range(0x2100)) if unicodedata.bidirectional(c) in TURNING)}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A command in a state of its directory. state: a method of Place. results: the file that ends it."""

    state: str
    arguments: tuple[str, ...]
    results: str = "results.json"


VARIANTS = {
    "a first run": Variant("empty", DIGITS),
    "a resumed run": Variant("interrupted", DIGITS),
    "a finished run again": Variant("earlier", DIGITS),
    "a test": Variant("finished", (*DIGITS, *TEST), "results_test.json"),
}


class Place:
    """A server, and folders for runs. States are made once and copied."""

    def __init__(self, server: Server, folder: Path):
        self.server, self.folder, self.count, self.has_checked = server, folder, 0, False
        self.empty = folder / "empty"
        write_tiny_vit(self.empty)
        outcome = server.learn(DIGITS, self.copy(self.empty))
        assert outcome.status == 0, outcome

    # ---- states ----

    def copy(self, state: Path) -> Path:
        """A new folder with the files of another."""
        self.count += 1
        return Path(shutil.copytree(state, self.folder / str(self.count), symlinks=True))

    def fresh(self, state: str) -> Path:
        """A copy of a state, by its name."""
        return self.copy(getattr(self, state))

    def remove(self, folder: Path) -> None:
        """Removes a folder that is not needed any more."""
        shutil.rmtree(folder)

    def completed(self, state: Path, arguments, **request) -> Path:
        """A copy of a state in which a command was completed."""
        folder = self.copy(state)
        outcome = self.server.run(arguments, folder, **request)
        assert (outcome.status, outcome.err) == (0, ""), outcome
        return folder

    @functools.cached_property
    def finished(self) -> Path:
        """A complete run on digits."""
        return self.completed(self.empty, DIGITS)

    @functools.cached_property
    def tested(self) -> Path:
        """A complete run, tested afterwards."""
        return self.completed(self.finished, (*DIGITS, *TEST))

    @functools.cached_property
    def earlier(self) -> Path:
        """A complete run of the same command with other numbers, as from another machine."""
        return self.completed(self.empty, DIGITS, schedule_factor=1.5)

    @functools.cached_property
    def interrupted(self) -> Path:
        """A run that was killed as soon as its first progress was saved."""
        operations = self.operations("a first run")
        saved = next(i for i, done in enumerate(operations) if done[:2] == ("rename", f"{RUN}/progress.safetensors"))
        later = next(done for done in operations[saved + 1 :] if done.kind in CHANGES and "events" not in done.path)
        folder = self.copy(self.empty)
        outcome = self.server.run(DIGITS, folder, Fault(later, "kill"))
        assert outcome.status == -9, outcome
        assert (folder / RUN / "progress.safetensors").exists()
        return folder

    @functools.cached_property
    def pictures(self) -> Path:
        """Pictures, by a link to the one folder that all have (checkpoints record it), and a weight file."""
        return self._with_pictures("pictures")

    @functools.cached_property
    def checked(self) -> Path:
        """The same with a damaged picture, which check_data has found."""
        folder = self._with_pictures("damaged pictures")
        bad = folder / "pictures/train/birch/birch-0074.png"
        bad.write_bytes(bad.read_bytes()[:200])
        outcome = self.check(folder)
        assert (outcome.status, outcome.err) == (1, ""), outcome
        return folder

    def _with_pictures(self, name: str) -> Path:
        folder = self.copy(self.empty)
        write_pictures(self.folder / name)
        (folder / "pictures").symlink_to(self.folder / name)
        return folder

    @functools.cached_property
    def trained_on_pictures(self) -> Path:
        """A complete run on pictures."""
        return self.completed(self.pictures, (*PICTURES, "num_workers", "2", "num_epochs", "2"))

    def operations(self, variant: str) -> list[Operation]:
        """The file operations of a variant, in order."""
        return self._traced(variant)[0]

    def kills(self, variant: str) -> dict[Fault, Path]:
        """Folders as the kills of a variant leave them: before each change of the disk, and half-way in each write."""
        operations, copies = self._traced(variant)
        found = {}
        for index, operation in enumerate(operations):
            if (copies / copy_name(index, False)).exists():
                for half in (False, True) if operation.kind == "write" else (False,):
                    found[Fault(operation, "kill", half=half)] = copies / copy_name(index, half)
        return found

    @functools.cache  # noqa: B019 (one place in a session)
    def _traced(self, variant: str) -> tuple[list[Operation], Path]:
        """The operations of a variant and the folder of the copies that were made meanwhile."""
        folder, copies = self.fresh(VARIANTS[variant].state), self.folder / f"killed in {variant}"
        copies.mkdir()
        outcome = self.server.run(VARIANTS[variant].arguments, folder, traced=True, copies=str(copies))
        assert (outcome.status, outcome.err) == (0, ""), outcome
        self.remove(folder)
        return outcome.operations, copies

    @functools.cache  # noqa: B019
    def reference(self, state: str, arguments: tuple[str, ...]) -> dict[str, object]:
        """The files of the uninterrupted command."""
        folder = self.completed(getattr(self, state), arguments)
        left = contents(folder)
        self.remove(folder)
        return left

    # ---- during and after a fault ----

    def check(self, folder: Path, *options: str, seconds: float | None = None) -> Outcome:
        """Runs check_data.py on the pictures of a folder, at most so many seconds."""
        script = {"script": "scripts/check_data.py"}
        if not self.has_checked:
            self.server.learn(CHECK, self.fresh("pictures"), **script)
            self.has_checked = True
        return self.server.start((*CHECK, *options), folder, **script).wait(seconds)

    @staticmethod
    def wait_for(path: Path, attempt: Attempt) -> None:
        """Waits until a running attempt has written a file."""
        wait_for(lambda: path.exists() or not attempt.running, 20, f"there is no {path.name}")
        assert path.exists(), f"it ended without {path.name}: {attempt.wait()}"

    def repeat(self, arguments, folder: Path, times: int = 1, **request) -> Outcome:
        """Repeats a command until it is complete, at most this number of times. Fails otherwise."""
        for _ in range(times):
            outcome = self.server.run(arguments, folder, **request)
            if outcome.status == 0:
                break
        assert outcome.status == 0, f"the same command again: {outcome}"
        assert outcome.err == "", f"the same command again completes, but prints: {outcome.err}"
        return outcome


# ---- files that runs read ----


def write_tiny_vit(folder: Path) -> None:
    """A ViT of one block for 32 pixels, with random weights, in timm's naming."""
    import timm

    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=64, num_heads=1, depth=1, num_classes=0
    )
    folder.mkdir()
    save_file(vit.state_dict(), folder / WEIGHTS)


def write_pictures(root: Path, train: int = 8, test: int = 8) -> None:
    """Noise in three classes, as PNG of 40 x 36 pixels."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for name in ("apple", "birch", "cedar"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{name}-{number * 37:04}.png")


# ---- files of runs ----


def contents(folder: Path) -> dict[str, object]:
    """The files that must be equal after two runs of one command, with their content without times."""
    return {RANDOM_PARTS.sub("*", path.name): content(path) for path in sorted((folder / RUN).iterdir())}


def content(path: Path) -> object:
    """The content of a file of a run, without times; None for logs and curves."""
    if path.name.startswith("results"):
        found = json.loads(path.read_text())
        return {key: value for key, value in found.items() if key not in UNCOMPARED}
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [{key: line[key] for key in line if key != "images_per_second"} for line in lines]
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {key: (file[key].dtype.str, file[key].tobytes()) for key in file.files}
    return path.read_bytes() if path.suffix == ".safetensors" or path.name == "config.yaml" else None


def assert_same(found: dict[str, object], expected: dict[str, object]) -> None:
    """Fails with the names of additional, missing and differing files."""
    left = sorted(found.keys() - expected.keys())
    assert not left, f"left over, unlike after an uninterrupted run: {left}"
    missing = sorted(expected.keys() - found.keys())
    assert not missing, f"missing, unlike after an uninterrupted run: {missing}"
    differing = [name for name in expected if found[name] != expected[name]]
    assert not differing, f"not as after an uninterrupted run: {differing}"


def snapshot(folder: Path) -> dict[str, bytes]:
    """The bytes of all files of a run, by name."""
    run = folder / RUN
    return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} if run.exists() else {}


def replacement(operations: list[Operation]) -> int:
    """The index of the first operation that changes a file of an earlier run."""
    protected = {f"{RUN}/{name}" for name in EARLIER}
    for index, (kind, path, _) in enumerate(operations):
        changes = kind in CHANGES and path in protected
        if changes or (kind in ("remove", "rename", "truncate") and path.startswith(f"{RUN}/events")):
            return index
    return len(operations)


def assert_nothing_lost(folder: Path, place: Place, name: str, fault: Fault) -> None:
    """Checks that progress exists, and that a finished run is unchanged until the new one is complete."""
    variant = VARIANTS[name]
    before, now = snapshot(getattr(place, variant.state)), snapshot(folder)
    if variant.state == "interrupted":
        assert "progress.safetensors" in now or "results.json" in now, "the progress is lost"
        return
    operations = place.operations(name)
    complete = now.get("results.json") != before.get("results.json")
    if complete or variant.state == "earlier" and operations.index(fault.operation) > replacement(operations):
        return
    kept = [file for file in before if file in EARLIER or file.startswith("events")]
    changed = [file for file in kept if now.get(file) != before[file]]
    assert not changed, f"files of the earlier run were changed before the new one was complete: {changed}"


# ---- output of runs ----


def assert_refused(outcome: Outcome, *names: str) -> None:
    """Checks for one sentence on stderr, with one of these names, and exit status 1 or 2."""
    assert outcome.status in (1, 2), outcome
    assert_sentence(outcome.err)
    assert not names or any(name in outcome.err for name in names), f"none of {names} is named: {outcome}"


def assert_sentence(err: str) -> None:
    """Checks for one line that a terminal can show."""
    assert "Traceback" not in err, f"a traceback: {err.splitlines()[0]} ... {err.splitlines()[-1]}"
    assert len(err.splitlines()) == 1, f"not one line: {err!r}"
    assert_harmless(err.rstrip("\n"))
    assert len(err) < 2000, f"a message of {len(err):,} characters: {err[:200]!r}"


def assert_harmless(text: str) -> None:
    """Checks that no character controls a terminal, ends a line for some readers, or reverses the text."""
    for line in text.split("\n"):
        found = [c for c in line if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in MARKS]
        assert not found, f"control characters {found}: {line[:200]!r}"


def assert_ended(session: int, seconds: float) -> None:
    """Checks that no process of a run is left after this number of seconds."""
    wait_for(lambda: not processes(session), seconds, f"processes {processes(session)} of the run are left")
