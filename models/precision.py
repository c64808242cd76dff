"""How frozen weights are stored, and which precision a test computes in."""

import torch
from torch import Tensor, nn

from models.backbones.int8 import Int8Linear
from models.backbones.tower import ImageTower, Tower
from models.backbones.transformer import Linear, linears
from utils.errors import ModelError


class FrozenWeights:
    """The frozen parameters of a module, which can be stored in several precisions in turn.

    Each cast starts from the float32 originals, stored on the CPU, so that training in one precision and testing in
    another both use the published weights, rounded once. If all `precisions` that will be needed are the same, the
    module is cast at once, and the originals are released.

    int8 is a precision of tests alone: everything is float32 but the products of the frozen Linears in the image
    tower's blocks. Raises ModelError if there are none.

    BatchNorm's parameters stay in float32, as its statistics are: its kernels accept float32 beside half-precision
    images, and not half-precision weights beside float32 statistics.
    """

    def __init__(self, module: nn.Module, *precisions: torch.dtype):
        norms = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        of_norms = {parameter for norm in norms for parameter in norm.parameters(recurse=False)}
        frozen = [p for p in module.parameters() if not p.requires_grad and p not in of_norms]
        self.towers = [m for m in module.modules() if isinstance(m, Tower)]
        self.int8 = int8_linears(self.towers) if torch.int8 in precisions else []
        self.originals: list[tuple[nn.Parameter, Tensor]] = [(p, p.detach().cpu()) for p in frozen]
        self.dtype: torch.dtype | None = None  # of the last cast
        if len(set(precisions)) == 1:
            self.cast(precisions[0])
            self.originals = []  # a later cast is to the same precision

    def cast(self, dtype: torch.dtype) -> None:
        """Stores every frozen parameter in `dtype`, on the device where it is, and sets it in every tower."""
        if dtype == self.dtype:
            return
        self.dtype = dtype
        for linear, int8 in self.int8:
            linear.int8 = int8 if dtype == torch.int8 else None
        dtype = torch.float32 if dtype == torch.int8 else dtype
        for tower in self.towers:
            tower.set_precision(dtype)
        for parameter, original in self.originals:
            parameter.data = original.to(parameter.device, dtype)


def int8_linears(towers: list[Tower]) -> list[tuple[Linear, Int8Linear]]:
    """The Linears of the image towers' blocks that a test may compute in int8, and their computation.

    The weights are float32 now. Raises ModelError if there are none.
    """
    blocks = [
        b for tower in towers if isinstance(tower, ImageTower) and tower.kind == "transformer" for b in tower.blocks
    ]
    found = [linear for block in blocks for *_, linear in linears(block)]
    frozen = [linear for linear in found if not (linear.weight.requires_grad or linear.in_parts)]
    if not frozen:
        reason = "all of its Linears are trainable" if found else "it is not a transformer"
        message = f"int8 computes the frozen Linears of the image tower, and {reason}; choose fp32 or bf16"
        raise ModelError(message, kind="nothing_in_int8", key="prec_test")
    return [(linear, Int8Linear(linear.weight.detach())) for linear in frozen]


def precisions(tower: nn.Module) -> list[str]:
    """The names of the precisions that the tower's weights have now, sorted."""
    stored = {str(parameter.dtype) for parameter in tower.parameters()}
    in_int8 = any(isinstance(module, Linear) and module.int8 is not None for module in tower.modules())
    return sorted(stored | ({str(torch.int8)} if in_int8 else set()))
