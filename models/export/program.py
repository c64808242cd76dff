"""A served model as a program of torch.export: a .pt2 file that torch runs without this program."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.export.comparison import probabilities_of


@torch.no_grad()
def write(served: nn.Module, resolution: int, path: Path) -> None:
    """Writes a served model: uint8 [batch, 3, R, R] -> (logits, probabilities), float32 [batch, C] each, any batch."""
    example = torch.zeros(2, 3, resolution, resolution, dtype=torch.uint8)
    program = torch.export.export(served, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)


def run(path: Path, images: Tensor) -> np.ndarray:
    """The probabilities that the written program computes."""
    return probabilities_of(torch.export.load(path).module(), images)
