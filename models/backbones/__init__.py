"""The backbones: a table of the published ones, and the towers that they are made of."""

from models.backbones.backbone import BackboneConfig
from models.backbones.families.clip import clip_resnet, clip_vit
from models.backbones.families.timm_resnet import plain_resnet
from models.backbones.families.timm_vit import plain_vit
from models.backbones.named import NAMED, Source


def _source(address: str, config: BackboneConfig, normalisation: str) -> Source:
    return Source(address, config=config, normalisation=normalisation)


R50, R101, R152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)  # blocks of the four stages (He et al. 2016, table 1)
# a ViT's dim, depth, patch, resolution, then of a CLIP: joint, text_dim, text_depth
BACKBONES: dict[str, Source] = {
    "clip_vit_b32": _source("clip:ViT-B-32", clip_vit(768, 12, 32, 224, 512, 512, 12), "clip"),
    "clip_vit_b16": _source("clip:ViT-B-16", clip_vit(768, 12, 16, 224, 512, 512, 12), "clip"),
    "clip_vit_l14": _source("clip:ViT-L-14", clip_vit(1024, 24, 14, 224, 768, 768, 12), "clip"),
    "clip_vit_l14@336px": _source("clip:ViT-L-14-336", clip_vit(1024, 24, 14, 336, 768, 768, 12), "clip"),
    "clip_rn50": _source("clip:RN50", clip_resnet(R50, 64, 224, 1024, 512, 12), "clip"),
    "clip_rn101": _source("clip:RN101", clip_resnet(R101, 64, 224, 512, 512, 12), "clip"),
    "in21k_vit_b16": _source("timm:vit_base_patch16_224.augreg2_in21k_ft_in1k", plain_vit(768, 12, 16, 224), "half"),
    "in21k_vit_b16@384px": _source(
        "timm:vit_base_patch16_384.augreg_in21k_ft_in1k", plain_vit(768, 12, 16, 384), "half"
    ),
    "in21k_vit_l16": _source("timm:vit_large_patch16_224.augreg_in21k_ft_in1k", plain_vit(1024, 24, 16, 224), "half"),
    "in21k_vit_l16@384px": _source(
        "timm:vit_large_patch16_384.augreg_in21k_ft_in1k", plain_vit(1024, 24, 16, 384), "half"
    ),
    "in1k_rn50": _source("timm:resnet50.a1_in1k", plain_resnet(R50), "imagenet"),
    "in1k_rn101": _source("timm:resnet101.a1h_in1k", plain_resnet(R101), "imagenet"),
    "in1k_rn152": _source("timm:resnet152.a1h_in1k", plain_resnet(R152), "imagenet"),
    "clip_tiny": _source("asset:clip_tiny.safetensors", clip_vit(128, 6, 8, 32, 64, 64, 3), "clip"),
    **NAMED,
}


def find_source(name: str) -> Source | None:
    """The row of a backbone by its name, or by its address; None for another address."""
    return BACKBONES.get(name) or next((row for row in BACKBONES.values() if row.address == name), None)


# backbones of any size, read from a file: {name: BackboneConfig.family}
FAMILIES = {
    "clip_vit": "CLIP ViT",
    "clip_rn": "CLIP ResNet",
    "vit": "ViT without a text tower",
    "rn": "ResNet without a text tower",
}
