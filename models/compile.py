"""Regional torch.compile: the transformer blocks of a training step, if the run is long enough to pay for it.

Inductor fuses the operations between a block's matrix products: norms, activation, residuals, casts. Equal blocks share
one graph, so a tower of 12 takes three: the first (its input has no gradient), those between, and the last (its class
token alone). Names of modules and tensors stay as they are, and so do checkpoints.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.backbones.tower import ImageTower, Tower
from models.backbones.transformer import Block

BACKEND = "inductor"
MAX_GRAPHS = 64  # in one process; a block differs from others by its methods, its input's gradient and its width
GPU_RATE = 4e14  # FLOP/s of a training step at best: 40 % of an H100's bf16 peak
CORE_RATE = 3e11  # FLOP/s of a training step on one core with AVX-512 bf16, measured
EARNS_BACK = 900  # seconds of training


def compile_blocks(
    model: nn.Module, when: str, images: int, size: int, device: torch.device, log: Callable[[str], None]
) -> bool:
    """Compiles, for training, the blocks of every transformer in `model`, depending on `when`: always, never or auto.

    images: the number of training images of this process, over all epochs. size: images of a full micro-batch.
    Returns whether anything is compiled; `log` is then called with one line.
    Only blocks in training mode run compiled: the longest published test, 50,000 images with five crops, takes half a
    minute on a GPU, less than compiling for it would; and a test run repeats the test after training bit by bit.
    """
    towers = [m for m in model.modules() if isinstance(m, Tower) and m.kind == "transformer"]
    image_towers = [tower for tower in towers if isinstance(tower, ImageTower)]
    long_enough = any(earns_back(tower, images, device) for tower in image_towers)
    if when == "never" or not towers or (when == "auto" and not long_enough):
        return False
    for tower in towers:
        # images: one size in every step but an epoch's last; texts: chunks of 256 classes and a smaller last one
        sizes, num_sizes = ({size}, 1) if tower in image_towers else (set(), 2)
        forward = CompiledForward(Block.forward, sizes, num_sizes, log)
        for block in tower.blocks:
            block.forward = functools.partial(forward, block)
    log(f"compiles  {sum(len(tower.blocks) for tower in towers)} transformer blocks for training")
    return True


def earns_back(tower: ImageTower, images: int, device: torch.device) -> bool:
    """Whether training `tower` on `images` takes EARNS_BACK seconds or more. An estimate, the same in every run.

    A token costs 4 FLOPs for each parameter of the blocks: forward and backward, without the gradients of weights.
    Compiled steps take 9 % less time on a CPU and compiling takes 40 s, so 900 s save twice its cost: see
    docs/performance_log.md. The third pass of checkpointing is not counted, so that the choice, and every bit, is the
    same with it.
    """
    rate = GPU_RATE if device.type == "cuda" else CORE_RATE * torch.get_num_threads()
    tokens, parameters = tower.num_tokens, sum(p.numel() for p in tower.blocks.parameters())
    return 4 * parameters * tokens * images / rate > EARNS_BACK


class CompiledForward:
    """The forward of a tower's blocks, called with the block first: compiled once for all blocks, for fixed sizes.

    It is compiled for the batch sizes `sizes`, and for the first others until there are `num_sizes`; any other size,
    such as that of an epoch's last, smaller batch, runs uncompiled. So nothing is compiled again after the first step,
    kernels have static shapes, and a run that resumes at any step computes the same bits. If compiling fails, `log` is
    called with the reason in one line, and every block runs uncompiled.
    """

    def __init__(self, forward: Callable[..., Tensor], sizes: set[int], num_sizes: int, log: Callable[[str], None]):
        self.plain = forward
        self.sizes, self.num_sizes, self.log = sizes, num_sizes, log

    @functools.cached_property
    def compiled(self) -> Callable[..., Tensor]:
        """The compiled forward. The compiler takes 3 s to import: only now, when the images are being read."""
        import torch._dynamo

        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
        # the backward graph with the forward one, so that a failure occurs where the block can still run uncompiled
        torch._functorch.config.force_non_lazy_backward_lowering = True
        return torch.compile(self.plain, dynamic=False, backend=BACKEND)

    def __call__(self, block: nn.Module, x: Tensor, first_only: bool = False) -> Tensor:
        if block.training and len(self.sizes) < self.num_sizes:
            self.sizes.add(x.shape[0])
        if not block.training or x.shape[0] not in self.sizes:
            return self.plain(block, x, first_only)
        try:
            return self.compiled(block, x, first_only)
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)
            reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
            self.log(f"compiling failed, so the blocks run uncompiled ({reason})")
            self.sizes, self.num_sizes = set(), 0
            return self.plain(block, x, first_only)
