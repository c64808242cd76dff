"""The image tower of the ResNets (He et al. 2016), in CLIP's form or in ImageNet's: timm's modules, unchanged."""

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.backbones.tower import ImageTower
from utils.run.checkpoint import MOVES_STATISTICS

STRIDE = 32  # pixels of an image to one of the last stage's feature map
CHANNEL_MULTIPLE = 8  # timm rounds the channels of CLIP's form to these
STAGE_STRIDES = (1, 2, 2, 2)


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """A ResNet of bottleneck blocks.

    CLIP's form (`joint` > 0; Radford et al. 2021, section 2.4) has a stem of three convolutions, pools before it
    strides, and ends in an attention pool that projects into the joint space: dim = joint. ImageNet's (`joint` = 0)
    is the plain network with a mean over the feature map: dim = 32 width, and any image size will do.
    """

    stages: tuple[int, ...]  # blocks of the four stages
    width: int  # channels of the first stage's 3 x 3 convolutions, 64 in every published model here
    resolution: int  # side of an image, pixels
    joint: int = 0  # width of CLIP's joint space

    kind = "ResNet"
    heads = activation = None  # no choice
    num_first = 1  # positions of the attention pool before those of the feature map
    is_unmistakable = is_known_by_resolution = norms_pooled = False
    computed: ClassVar[dict[str, Any]] = {}
    whole_cells = True  # the two branches of a block differ in size where a stage halves an odd number of pixels

    @property
    def dim(self) -> int:
        """Width of the feature."""
        return self.joint or 32 * self.width

    @property
    def depth(self) -> int:
        """Blocks."""
        return sum(self.stages)

    @property
    def cell(self) -> int:
        """Side of an image's cell in the attention pool's grid, pixels; without one, any size will do."""
        return STRIDE if self.joint else 1

    @property
    def side(self) -> int:
        """Side of the last feature map."""
        return self.resolution // STRIDE

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes that the tensors determine; without an attention pool, any resolution will do."""
        return {name: getattr(self, name) for name in ("stages", "width", "dim", "depth", "resolution")}

    def at(self, resolution: int) -> "ResNetConfig":
        return dataclasses.replace(self, resolution=resolution)

    def with_choices(self, activation: str | None, heads: int) -> "ResNetConfig":
        return self

    def with_class_token(self) -> "ResNetConfig":
        return self

    def build(self) -> "ResNet":
        return ResNet(self)


class ResNet(ImageTower):
    """Images [B, 3, resolution, resolution], normalised -> the pooled feature, [B, dim].

    The slot `after`, for a fine-tuning method, is applied to the pooled feature, [B, dim] -> [B, dim].

    timm's layers do not cast, so the tower runs under autocast, in its `precision`: frozen weights are stored in it,
    and a trainable float32 weight is cast where it is used. It is set by `set_precision`, as it cannot be read from
    the weights where all of them are trainable; None is that of the weights.
    A BatchNorm keeps its pre-trained statistics, and `net` stays in evaluation mode regardless of train(), unless a
    method updates the statistics (models/peft/bn_tuning.py): such a BatchNorm follows train().

    Weights and feature maps are stored channels-last, as convolutions read them: on a CPU (AVX-512 bf16, one thread)
    BitFit of ResNet-50 trains 1.45 times as fast for it and tests 1.35 times, in float32 1.17 and 1.09 times.
    """

    kind = "resnet"

    def __init__(self, config: ResNetConfig):
        super().__init__()
        c = self.config = config
        self.dim, self.resolution = c.dim, c.resolution
        self.net = _clip_net(c) if c.joint else imagenet_net(c.stages, c.width)
        self.after: nn.Module = nn.Identity()
        self.precision: torch.dtype | None = None
        self.net.register_load_state_dict_post_hook(_to_channels_last)
        self.train(self.training)

    @property
    def stages(self) -> list[nn.Module]:
        """The four stages, first to last."""
        if self.config.joint:
            return list(self.net.get_submodule("stages").children())
        return [self.net.get_submodule(f"layer{i}") for i in (1, 2, 3, 4)]

    @property
    def blocks(self) -> list[nn.Module]:
        """The bottleneck blocks of all stages, first to last."""
        return [block for stage in self.stages for block in stage.children()]

    @property
    def last_linear(self) -> nn.Module | None:
        """The Linear whose output is the feature: the attention pool's projection; None for a mean."""
        return self.net.get_submodule("head.proj") if self.config.joint else None

    @property
    def batch_norms(self) -> list[nn.Module]:
        """Every BatchNorm of the tower, that of the stem first."""
        return [module for module in self.net.modules() if isinstance(module, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> "ResNet":
        """As nn.Module's, but in `net` only the BatchNorms that update their statistics leave evaluation mode."""
        super().train(mode)
        self.net.eval()
        for norm in self.batch_norms:
            norm.train(mode and getattr(norm, MOVES_STATISTICS, False))
        return self

    def set_precision(self, dtype: torch.dtype) -> None:
        self.precision = dtype

    def forward(self, images: Tensor) -> Tensor:
        dtype = self.precision or next(self.net.parameters()).dtype
        half = dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(images.device.type, dtype if half else None, enabled=half):
            features = self.net(images.to(dtype, memory_format=torch.channels_last))
        return self.after(features)


def _to_channels_last(net: nn.Module, keys: object) -> None:
    net.to(memory_format=torch.channels_last)


def _clip_net(config: ResNetConfig) -> nn.Module:
    """timm's resnet50_clip or resnet101_clip, in any size; its attention pool has heads of width 64."""
    from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg  # heavy: imported where it is used

    width = config.width
    blocks = tuple(
        ByoBlockCfg(type="bottle", d=depth, c=4 * width * 2**i, s=STAGE_STRIDES[i], br=0.25)
        for i, depth in enumerate(config.stages)
    )
    cfg = ByoModelCfg(
        blocks=blocks,
        stem_chs=(width // 2, width // 2, width),
        stem_type="",
        stem_pool="avg2",
        downsample="avg",
        aa_layer="avg",
        head_type="attn_abs",
    )
    return ByobNet(cfg, num_classes=config.joint, img_size=config.resolution)


def imagenet_net(stages: tuple[int, ...], width: int) -> nn.Module:
    """timm's resnet50, resnet101 or resnet152, in any size, without the classifier."""
    from timm.models import resnet

    channels = tuple(width * 2**i for i in range(len(stages)))
    return resnet.ResNet(
        resnet.Bottleneck,  # type: ignore[arg-type]  # timm annotates an instance, but expects the class
        stages,
        num_classes=0,
        channels=channels,
    )
