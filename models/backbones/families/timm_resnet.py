"""ResNets of ImageNet (He et al. 2016) as timm publishes them: plain bottlenecks, without a text tower."""

from typing import Any

import torch

from models.backbones.backbone import BackboneConfig
from models.backbones.families.features import require
from models.backbones.naming import Naming, Rename
from models.backbones.resnet import ResNetConfig, imagenet_net

RESOLUTION = 224  # not in the tensors, as a mean over the feature map accepts any size
OTHER_LAYERS = "layers beside plain bottlenecks"
RESNET: tuple[Rename, ...] = (("", "image.net.", ()),)
NAMINGS = (Naming("timm's ResNet", "layer1.", RESNET),)


def plain_resnet(stages: tuple[int, ...], width: int = 64) -> BackboneConfig:
    """timm's plain ResNet."""
    return BackboneConfig(ResNetConfig(stages, width, RESOLUTION))


def plain_terms(config: ResNetConfig) -> dict[str, Any]:
    """timm's plain ResNet of these sizes, as a config.json describes it."""
    channels = [config.width * 2**i for i in range(len(config.stages))]
    return {"architecture": "resnet50", "model_args": {"layers": list(config.stages), "channels": channels}}


def resnet_config(model: Any) -> ResNetConfig:
    """The config of timm's own ResNet. Raises ModelError for one with other layers than plain bottlenecks."""
    from timm.models.resnet import Bottleneck

    depths = tuple(len(getattr(model, f"layer{i}")) for i in (1, 2, 3, 4))
    require(type(model.layer1[0]) is Bottleneck, OTHER_LAYERS)
    width = model.layer1[0].conv1.out_channels
    with torch.device("meta"):
        plain = imagenet_net(depths, width)
    model.reset_classifier(0)
    require(str(model) == str(plain), OTHER_LAYERS)
    return ResNetConfig(depths, width, RESOLUTION)
