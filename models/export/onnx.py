"""A served model as ONNX, written by torch and run by onnxruntime. The three packages are optional."""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.export.comparison import batches
from utils.errors import ModelError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
PROGRAM = Path(__file__).with_name("predict_onnx.py")  # for the folder of an export
EXAMPLES = 2  # images that the program is traced with; any number will do


def require_packages() -> None:
    """Raises ModelError if a package that the export needs is missing."""
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        message = f"export to ONNX needs {', '.join(missing)}; install with: pip install {' '.join(PACKAGES)}"
        raise ModelError(message, kind="missing_package")


def write(served: nn.Module, resolution: int, path: Path) -> None:
    """Writes a served model: `images`, uint8 [batch, 3, R, R] -> `logits` and `probabilities`, float32 [batch, C].

    Above 2 GB the weights are in a second file, as ONNX needs.
    """
    example = torch.zeros(EXAMPLES, 3, resolution, resolution, dtype=torch.uint8)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            served,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits", "probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch exported nothing")
        program.save(path)


def run(path: Path, images: Tensor, precision: str) -> np.ndarray:
    """The probabilities that onnxruntime computes on the CPU. Raises ModelError if it cannot run this precision."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for each status, some of them RuntimeErrors
        if precision == "fp32":
            raise
        message = f"onnxruntime {onnxruntime.__version__} cannot run this model in {precision} on a CPU"
        raise ModelError(
            f"{message}; choose --precision fp16 or fp32, or --to torch", kind="unrunnable_precision"
        ) from error
    return np.concatenate([session.run(["probabilities"], {"images": part.numpy()})[0] for part in batches(images)])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides warnings about the exporter's internals during the block."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
