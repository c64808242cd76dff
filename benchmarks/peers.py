"""Compares the speed of this program with its alternatives on the same JPEGs, and prints ratios.

    python benchmarks/peers.py                     training and testing, on this machine's CPU
    python benchmarks/peers.py --turns 5 --images 64

Work: LoRA of rank 4 on queries and values of ViT-B/16 at 224 pixels, random weights, 100 classes, from files to the
optimizer's step, or to the scores of a test. The peers follow their documentation: Hugging Face's Trainer
with peft, a plain loop with timm's model and transforms, and for tests ONNX Runtime with timm's model. A peer whose
package is missing is left out (pip install transformers peft accelerate onnxruntime onnxscript).

This program takes turns with one peer after another, each in its own process with a worker per core.
"""

import argparse
import dataclasses
import functools
import importlib.util
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from benchmarks import timing
from benchmarks.run import CORES, build_trainer, link_class_folders, write_photos
from benchmarks.timing import BaselineProcess
from utils.device.environment import describe, versions

CLASSES, RANK, SIDE = 100, 4, 224
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Work:
    """One turn: `steps` steps of `batch` images after a first one, or a test of `images` images; files in `folder`."""

    folder: Path
    batch: int
    steps: int
    images: int
    depth: int = 12  # blocks of the model, as ViT-B/16; fewer for a quick check

    @property
    def root(self) -> Path:
        """ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg."""
        return self.folder / "images"

    @property
    def weights(self) -> Path:
        return self.folder / "timm.safetensors"

    def scratch(self) -> str:
        return tempfile.mkdtemp(dir=self.folder)

    def timm_model(self) -> nn.Module:
        import timm

        torch.manual_seed(0)
        return timm.create_model("vit_base_patch16_224", num_classes=CLASSES, depth=self.depth)

    def write(self) -> None:
        """Writes images and weights."""
        from safetensors.torch import save_file

        photos = write_photos(self.folder / "photos")
        link_class_folders(self.root, photos, photos, CLASSES, self.images)
        state = self.timm_model().state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, self.weights)


Turn = Callable[[], float]  # a turn -> its seconds


def seconds_of_steps(steps: Iterable[object], count: int) -> float:
    """Seconds of `count` steps after the first one, during which the workers start."""
    iterator = iter(steps)
    next(iterator)
    start = time.perf_counter()
    for _ in itertools.islice(iterator, count):
        pass
    return time.perf_counter() - start


# ---- this program ----


def ours(device: torch.device, work: Work, precision: str | None, trains: bool) -> Turn:
    """The steps of Trainer, or its test. precision: None = the program's own choice."""
    given: dict[str, object] = {"root": work.root, "weights": work.weights, "classifier_init": None, "gpu": -1}
    given |= {"activation": "gelu", "heads": 12, "mean": "half"}
    given |= {"v.lora_dim": RANK, "batch_size": work.batch, "output_dir": work.scratch(), "compile": "never"}
    given |= {"num_workers": CORES, "report": False} | (
        {"prec_train": precision, "prec_test": precision} if precision else {}
    )
    options = [str(word) for pair in given.items() for word in pair]
    trainer = build_trainer(["folder", "vit", "lora", *options])

    def train() -> float:
        batches = trainer.train_batches(0, work.steps + 1)
        seconds = seconds_of_steps((trainer.train_step(*batch) for batch in batches), work.steps)
        batches.close()
        return seconds

    def test() -> float:
        return timing.timed(trainer.evaluate, device)[0]

    return train if trains else test


# ---- Hugging Face's Trainer with peft ----


def hugging_face(device: torch.device, work: Work, bf16: bool, trains: bool) -> Turn:
    import transformers.trainer
    from peft import LoraConfig, get_peft_model
    from transformers import (
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        ViTConfig,
        ViTForImageClassification,
    )

    # this program has a package called datasets, too
    transformers.trainer.is_datasets_available = lambda: False  # type: ignore[attr-defined]

    class Clock(TrainerCallback):
        """Records the times at which steps end."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_end(self, *args: object, **kwargs: object) -> None:
            self.times.append(time.perf_counter())

    model = ViTForImageClassification(ViTConfig(num_labels=CLASSES, num_hidden_layers=work.depth))
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    targets = ["query", "value"] if "query" in names else ["q_proj", "v_proj"]  # before and since transformers 5
    lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, modules_to_save=["classifier"])
    arguments = TrainingArguments(
        work.scratch(),
        per_device_train_batch_size=work.batch,
        per_device_eval_batch_size=work.batch,
        max_steps=work.steps + 1,
        dataloader_num_workers=CORES,
        bf16=bf16,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )

    def collate(samples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
        images, labels = zip(*samples, strict=True)
        return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}

    clock = Clock()
    trainer = Trainer(
        get_peft_model(model, lora),
        arguments,
        train_dataset=plain_images(work, trains=True),
        eval_dataset=plain_images(work, trains=False),
        data_collator=collate,
        callbacks=[clock],
    )

    trainer.remove_callback(PrinterCallback)

    def train() -> float:
        clock.times.clear()
        trainer.train()
        return clock.times[-1] - clock.times[0]

    def test() -> float:
        return timing.timed(trainer.evaluate, device)[0]

    return train if trains else test


# ---- a plain loop with timm ----


class PlainLora(nn.Module):
    """qkv(x) with low-rank updates of queries and values."""

    def __init__(self, qkv: nn.Linear):
        super().__init__()
        self.qkv, dim = qkv, qkv.in_features
        self.down = nn.ModuleList(nn.Linear(dim, RANK, bias=False) for _ in "qv")
        self.up = nn.ModuleList(nn.Linear(RANK, dim, bias=False) for _ in "qv")

    def forward(self, x: Tensor) -> Tensor:
        q, v = (up(down(x)) for down, up in zip(self.down, self.up, strict=True))
        return self.qkv(x) + torch.cat([q, torch.zeros_like(q), v], dim=-1)


def plain_timm(device: torch.device, work: Work, bf16: bool, trains: bool) -> Turn:
    model = work.timm_model().requires_grad_(False)
    for block in model.blocks:
        block.attn.qkv = PlainLora(block.attn.qkv)
    model.head.requires_grad_(True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or ".down." in name or ".up." in name)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9)
    autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=bf16)

    def steps() -> Iterator[float]:
        model.train()
        for images, labels in loader(work, trains=True):
            with autocast():
                loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()

    @torch.no_grad()
    def test() -> list[float]:
        model.eval()
        hits: list[float] = []
        for images, labels in loader(work, trains=False):
            with autocast():
                hits.append((model(images).argmax(1) == labels).float().mean().item())
        return hits

    return (lambda: seconds_of_steps(steps(), work.steps)) if trains else (lambda: timing.timed(test, device)[0])


def plain_images(work: Work, trains: bool) -> ImageFolder:
    """The images with timm's transforms: Pillow, float32, normalised."""
    from timm.data import create_transform

    transform = create_transform(SIDE, is_training=trains, color_jitter=0.0, interpolation="bicubic")
    return ImageFolder(str(work.root / ("train" if trains else "test")), transform, allow_empty=True)


def loader(work: Work, trains: bool) -> DataLoader:
    return DataLoader(plain_images(work, trains), work.batch, shuffle=trains, num_workers=CORES, drop_last=trains)


# ---- ONNX Runtime ----


def onnx_runtime(device: torch.device, work: Work, bf16: bool, trains: bool) -> Turn:
    """A test of timm's model in float32."""
    import onnxruntime

    file = work.folder / "timm.onnx"
    batch = torch.export.Dim("batch", min=1, max=4096)
    example = (torch.zeros(2, 3, SIDE, SIDE),)
    exported = torch.onnx.export(
        work.timm_model().eval(), example, dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )
    assert exported is not None  # with dynamo=True torch returns a program
    exported.save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def test() -> list[float]:
        hits: list[float] = []
        for images, labels in loader(work, trains=False):
            logits = session.run(None, {name: images.numpy()})[0]
            hits.append(float((logits.argmax(1) == labels.numpy()).mean()))
        return hits

    return lambda: timing.timed(test, device)[0]


# ---- the table ----


@dataclasses.dataclass(frozen=True)
class Program:
    """A program: prepare(device, work, choice, trains) -> a turn. packages: required. trains: if it can train."""

    prepare: Callable[..., Turn]
    choice: object
    packages: tuple[str, ...] = ()
    trains: bool = True

    @property
    def missing(self) -> list[str]:
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


OURS = Program(ours, None)
HF, ORT = ("transformers", "peft", "accelerate"), ("onnxruntime", "onnxscript")
PEERS = {
    "ours in fp32": Program(ours, "fp32"),
    "Hugging Face Trainer and peft, fp32": Program(hugging_face, False, HF),
    "Hugging Face Trainer and peft, bf16": Program(hugging_face, True, HF),
    "timm, fp32": Program(plain_timm, False),
    "timm, bf16": Program(plain_timm, True),
    "ONNX Runtime, fp32": Program(onnx_runtime, False, ORT, trains=False),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """Seconds of both programs' turns, in pairs, and the peak memory of both processes, MB."""

    ours: list[float]
    theirs: list[float]
    our_mb: float
    their_mb: float


def compare(work: Work, theirs: Program, turns: int, trains: bool) -> Result:
    """Takes turns with one peer at a time, as other processes would occupy memory that large steps need."""
    programs = {"ours": OURS, "theirs": theirs}
    processes = {name: BaselineProcess(CPU) for name in programs}
    with processes["ours"].executor, processes["theirs"].executor:
        functions = {
            name: process.prepare(programs[name].prepare, work, programs[name].choice, trains)
            for name, process in processes.items()
        }
        seconds = timing.take_turns(functions, turns, CPU)
        peaks = {name: process.executor.submit(timing.high_water_mb).result() for name, process in processes.items()}
        return Result(seconds["ours"], seconds["theirs"], peaks["ours"], peaks["theirs"])


def line(name: str, result: Result, images: int) -> str:
    """A row of Markdown: the speed ratio in the median turn, images/s of both programs, and memory."""
    ratios = [theirs / ours for ours, theirs in zip(result.ours, result.theirs, strict=True)]
    ratio = f"**{statistics.median(ratios):.2f}** ± {100 * timing.spread(ratios):.0f} %"
    speeds = [images / statistics.median(seconds) for seconds in (result.ours, result.theirs)]
    return f"| {name} | {ratio} | {speeds[0]:.3g} | {speeds[1]:.3g} | {result.our_mb:,.0f} | {result.their_mb:,.0f} |"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="of each program")
    parser.add_argument("--batch", type=int, default=32, help="images in a step, and in a batch of a test")
    parser.add_argument("--steps", type=int, default=2, help="of a turn in training, after the first")
    parser.add_argument("--images", type=int, default=64, help="of a test")
    parser.add_argument("--stage", nargs="+", choices=["train", "test"], default=["train", "test"])
    parser.add_argument("--depth", type=int, default=12, help="blocks of the model")
    args = parser.parse_args(arguments)

    load, begin = os.getloadavg()[0], time.perf_counter()
    for name, program in PEERS.items():
        if program.missing:
            print(f"without {name}: {', '.join(program.missing)} is not installed", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder), args.batch, args.steps, args.images, args.depth)
        work.write()
        for stage in args.stage:
            trains = stage == "train"
            print(f"| {stage} | ratio | ours, images/s | theirs | ours, MB | theirs |\n" + "|---" * 6 + "|")
            for name, program in PEERS.items():
                if not program.missing and (program.trains or not trains):
                    result = compare(work, program, args.turns, trains)
                    print(line(name, result, args.batch * args.steps if trains else args.images), flush=True)
            print()
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(f"{describe(CPU)}, {CORES} cores, {time.strftime('%Y-%m-%d')}, {args.turns} turns, {packages}.")
    print(f"Load at the start {load:.1f}; {time.perf_counter() - begin:.0f} s.")


if __name__ == "__main__":
    main(sys.argv[1:])
