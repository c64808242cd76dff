"""The backbones: a table of the published ones, and the towers that they are made of."""

from typing import NamedTuple

from models.backbones.backbone import BackboneConfig
from models.backbones.families.clip import clip_resnet, clip_vit
from models.backbones.families.timm_resnet import plain_resnet
from models.backbones.families.timm_vit import plain_vit


class Source(NamedTuple):
    """Where a backbone's weights are published, and its config, so that it can be built without them.

    config: None where the library that publishes the weights describes them.
    """

    address: (
        str  # asset:FILE, clip:MODEL (OpenAI's, through open_clip), timm:MODEL.TAG, open_clip:MODEL/TAG, hf-hub:...
    )
    config: BackboneConfig | None = None
    normalisation: str | None = None  # a name of NORMALISATIONS


R50, R101, R152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)  # blocks of the four stages (He et al. 2016, table 1)
# a ViT's dim, depth, patch, resolution, then of a CLIP: joint, text_dim, text_depth
BACKBONES = {
    "clip_vit_b32": Source("clip:ViT-B-32", clip_vit(768, 12, 32, 224, 512, 512, 12), "clip"),
    "clip_vit_b16": Source("clip:ViT-B-16", clip_vit(768, 12, 16, 224, 512, 512, 12), "clip"),
    "clip_vit_l14": Source("clip:ViT-L-14", clip_vit(1024, 24, 14, 224, 768, 768, 12), "clip"),
    "clip_vit_l14@336px": Source("clip:ViT-L-14-336", clip_vit(1024, 24, 14, 336, 768, 768, 12), "clip"),
    "clip_rn50": Source("clip:RN50", clip_resnet(R50, 64, 224, 1024, 512, 12), "clip"),
    "clip_rn101": Source("clip:RN101", clip_resnet(R101, 64, 224, 512, 512, 12), "clip"),
    "in21k_vit_b16": Source("timm:vit_base_patch16_224.augreg2_in21k_ft_in1k", plain_vit(768, 12, 16, 224), "half"),
    "in21k_vit_b16@384px": Source(
        "timm:vit_base_patch16_384.augreg_in21k_ft_in1k", plain_vit(768, 12, 16, 384), "half"
    ),
    "in21k_vit_l16": Source("timm:vit_large_patch16_224.augreg_in21k_ft_in1k", plain_vit(1024, 24, 16, 224), "half"),
    "in21k_vit_l16@384px": Source(
        "timm:vit_large_patch16_384.augreg_in21k_ft_in1k", plain_vit(1024, 24, 16, 384), "half"
    ),
    "in1k_rn50": Source("timm:resnet50.a1_in1k", plain_resnet(R50), "imagenet"),
    "in1k_rn101": Source("timm:resnet101.a1h_in1k", plain_resnet(R101), "imagenet"),
    "in1k_rn152": Source("timm:resnet152.a1h_in1k", plain_resnet(R152), "imagenet"),
    "clip_tiny": Source("asset:clip_tiny.safetensors", clip_vit(128, 6, 8, 32, 64, 64, 3), "clip"),
}


# of any size, from a file alone: what `BackboneConfig.family` calls them
FAMILIES = {
    "clip_vit": "CLIP ViT",
    "clip_rn": "CLIP ResNet",
    "vit": "ViT without a text tower",
    "rn": "ResNet without a text tower",
}
