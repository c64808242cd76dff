"""Adapter (Houlsby et al. 2019, arXiv 1902.00751): a bottleneck in series after the MLP.

    h <- h + Up(ReLU(Down(LN(h)))),   h the output of the MLP

Down [d, dim] starts uniform in +-1/sqrt(d) (kaiming-uniform, a = sqrt 5; in LIFT normal with the same deviation,
1/sqrt(3 d)), Up at zero, so a fresh adapter changes nothing. Default dim: 2^floor(log2(C / 2L)); in LIFT L counts all
blocks of the tower.
"""

from torch import Tensor, nn

from models.backbones.transformer import Block, LayerNorm, Linear
from models.peft.method import Method, Site, SizedOptions


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


def attach(site: Site[Block], options: SizedOptions) -> None:
    """Wraps the MLP of every block."""
    width = site.default_size(share=2) if options.dim is None else options.dim
    adapted = [AdaptedMlp(block.mlp, block.dim, width) for block in site.blocks]
    for block, mlp in zip(site.blocks, adapted, strict=True):
        block.mlp = mlp
    if site.variant == "lift":
        for mlp in adapted:
            mlp.adapter.start_normal()


METHOD = Method(attach, SizedOptions)
