"""A Linear in int8, for tests on a CPU: 3.5 times the products per second of float32 (docs/performance_log.md)."""

import torch
from torch import Tensor

LARGEST = 127  # of a signed integer of 8 bits; rows and columns are scaled to +-LARGEST
ZERO = 128  # oneDNN takes the left operand unsigned: x is stored as x + ZERO


class Int8Linear:
    """x W^T + b with x and W rounded to 8 bits: float32 [..., in] -> [..., out].

    Each row of x (a token) and of W (an output) has its own scale, its largest magnitude / 127, so that an image's
    values do not depend on the batch that it is in. Sums are exact, in int32; the result and the bias are float32.
    """

    def __init__(self, weight: Tensor):
        """weight: float32 [out, in], on the CPU."""
        scale = scale_of(weight)
        self.scale = scale[:, 0]
        self.weight = torch.ops.onednn.qlinear_prepack((weight / scale).round_().to(torch.int8), None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.flatten(0, -2)
        scale = scale_of(rows)  # a row of NaN or infinite values stays one, by its scale
        unsigned = torch.addcmul(rows.new_tensor(ZERO + 0.5), rows, scale.reciprocal()).to(torch.uint8)
        out = torch.ops.onednn.qlinear_pointwise(
            unsigned, 1.0, ZERO, self.weight, self.scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        out = out.mul_(scale) if bias is None else torch.addcmul(bias, out, scale, out=out)
        return out.unflatten(0, x.shape[:-1])


def scale_of(rows: Tensor) -> Tensor:
    """The scale of each row, [n, 1]: its largest magnitude / LARGEST, above 0."""
    return rows.abs().amax(-1, keepdim=True).div_(LARGEST).clamp_(min=torch.finfo(torch.float32).tiny)
