"""How frozen weights are stored."""

import torch
from torch import Tensor, nn

from models.backbones.tower import Tower


class FrozenWeights:
    """The frozen parameters of a module, whose storage can change its precision.

    Each cast starts from the float32 originals, kept on the CPU, so that training in one precision and testing in
    another both see the published weights, rounded once. Where all `precisions` that will be needed are the same, the
    module is cast at once, and the originals are released.

    BatchNorm's parameters stay in float32, as its statistics are: its kernels take float32 beside half-precision
    images, and not half-precision weights beside float32 statistics.
    """

    def __init__(self, module: nn.Module, *precisions: torch.dtype):
        norms = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        of_norms = {parameter for norm in norms for parameter in norm.parameters(recurse=False)}
        frozen = [p for p in module.parameters() if not p.requires_grad and p not in of_norms]
        self.towers = [m for m in module.modules() if isinstance(m, Tower)]
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
        for tower in self.towers:
            tower.set_precision(dtype)
        for parameter, original in self.originals:
            parameter.data = original.to(parameter.device, dtype)
