"""Adapter (Houlsby et al. 2019, arXiv 1902.00751): a bottleneck in series after the MLP.

    h <- h + Up(ReLU(Down(LN(h)))),   h the output of the MLP

Down is uniform in +-1/sqrt(d) (kaiming-uniform, a = sqrt 5; LIFT's: normal with the same deviation, 1/sqrt(3 d)), Up
zero, so a fresh adapter changes nothing.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from models.backbones.transformer import Block, LayerNorm, Linear


class Bottleneck(nn.Module):
    """Up(ReLU(Down(LN(x)))): [..., D] -> [..., D] through `width` dimensions; zero at first."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.norm = LayerNorm(dim)
        self.down = Linear(dim, width)  # nn.Linear starts kaiming-uniform, a = sqrt 5
        self.up = Linear(width, dim)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """ReLU(Down(LN(x))), [..., width]."""
        return self.down(self.norm(x)).relu()

    def start_normal(self) -> None:
        """Draws Down's weight as LIFT does: normal, deviation 1/sqrt(3 D)."""
        nn.init.normal_(self.down.weight, std=(3 * self.down.in_features) ** -0.5)


class AdaptedMlp(nn.Module):
    """Wraps the MLP of a block: [B, N, D] -> [B, N, D]."""

    def __init__(self, mlp: nn.Module, dim: int, width: int):
        super().__init__()
        self.wrapped = mlp
        self.adapter = Bottleneck(dim, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.wrapped(x)
        return h + self.adapter(h)


def attach(blocks: Sequence[Block], width: int) -> None:
    """Wraps the MLP of every block with a bottleneck of `width`."""
    for block in blocks:
        block.mlp = AdaptedMlp(block.mlp, block.dim, width)


def start_normal(tower: nn.Module, blocks: Sequence[Block]) -> None:
    """Draws the first values of attached adapters as LIFT does."""
    for block in blocks:
        block.mlp.adapter.start_normal()
