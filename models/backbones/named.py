"""The backbones of other libraries that have a name here: a file configs/backbone/NAME.yaml and a row of NAMED."""

from typing import NamedTuple

from models.backbones.backbone import BackboneConfig


class Source(NamedTuple):
    """Where a backbone's weights are published. Without a config, its address describes architecture and images."""

    address: str  # see models/weights/find.py
    licence: str = ""  # of the weights, as in timm's registry
    seen: str = ""  # the data set whose test images may be among the images that the weights were trained on
    class_token: bool = False  # whether its feature is the class token, in spite of the description
    config: BackboneConfig | None = None  # so that it can be built without the library
    normalisation: str | None = None  # a name of NORMALISATIONS, beside a config


NAMED: dict[str, Source] = {
    # CLIPs on LAION-2B, DataComp, DFN and MetaCLIP's data: plain ViTs with CLIP's text tower
    "laion2b_vit_b16": Source("open_clip:ViT-B-16/laion2b_s34b_b88k", "mit"),
    "laion2b_vit_l14": Source("open_clip:ViT-L-14/laion2b_s32b_b82k", "mit"),
    "laion2b_vit_h14": Source("open_clip:ViT-H-14/laion2b_s32b_b79k", "mit"),
    "datacomp_vit_b16": Source("open_clip:ViT-B-16/datacomp_xl_s13b_b90k", "mit"),
    "datacomp_vit_l14": Source("open_clip:ViT-L-14/datacomp_xl_s13b_b90k", "mit"),
    "dfn_vit_b16": Source("open_clip:ViT-B-16/dfn2b", "apple-ascl"),
    "dfn_vit_l14": Source("open_clip:ViT-L-14/dfn2b", "apple-ascl"),
    "metaclip_vit_b16": Source("open_clip:ViT-B-16/metaclip_fullcc", "cc-by-nc-4.0"),
    "metaclip_vit_l14": Source("open_clip:ViT-L-14/metaclip_fullcc", "cc-by-nc-4.0"),
    # species: TreeOfLife-10M and TreeOfLife-200M have images of iNaturalist
    "bioclip_vit_b16": Source("hf-hub:imageomics/bioclip", "mit", seen="inat2018"),
    "bioclip2_vit_l14": Source("hf-hub:imageomics/bioclip-2", "mit", seen="inat2018"),
    # other towers with texts
    "eva02_vit_b16": Source("open_clip:EVA02-B-16/merged2b_s8b_b131k", "mit"),
    "eva02_vit_l14": Source("open_clip:EVA02-L-14/merged2b_s4b_b131k", "mit"),
    "siglip2_vit_b16": Source("open_clip:ViT-B-16-SigLIP2/webli", "apache-2.0"),
    "siglip2_vit_l16": Source("open_clip:ViT-L-16-SigLIP2-256/webli", "apache-2.0"),
    "siglip2_vit_so400m14": Source("open_clip:ViT-SO400M-14-SigLIP2/webli", "apache-2.0"),
    "pe_core_vit_t16": Source("open_clip:PE-Core-T-16-384/meta", "apache-2.0"),
    "pe_core_vit_s16": Source("open_clip:PE-Core-S-16-384/meta", "apache-2.0"),
    "pe_core_vit_b16": Source("open_clip:PE-Core-B-16/meta", "apache-2.0"),
    "pe_core_vit_l14": Source("open_clip:PE-Core-L-14-336/meta", "apache-2.0"),
    # image towers alone; DINOv3's authors take the class token, and timm the mean of the patches
    "dinov2_vit_s14": Source("timm:vit_small_patch14_dinov2.lvd142m", "apache-2.0"),
    "dinov2_vit_b14": Source("timm:vit_base_patch14_dinov2.lvd142m", "apache-2.0"),
    "dinov2_vit_l14": Source("timm:vit_large_patch14_dinov2.lvd142m", "apache-2.0"),
    "dinov2_reg_vit_s14": Source("timm:vit_small_patch14_reg4_dinov2.lvd142m", "apache-2.0"),
    "dinov2_reg_vit_b14": Source("timm:vit_base_patch14_reg4_dinov2.lvd142m", "apache-2.0"),
    "dinov2_reg_vit_l14": Source("timm:vit_large_patch14_reg4_dinov2.lvd142m", "apache-2.0"),
    "dinov3_vit_s16": Source("timm:vit_small_patch16_dinov3.lvd1689m", "dinov3-license", class_token=True),
    "dinov3_vit_b16": Source("timm:vit_base_patch16_dinov3.lvd1689m", "dinov3-license", class_token=True),
    "dinov3_vit_l16": Source("timm:vit_large_patch16_dinov3.lvd1689m", "dinov3-license", class_token=True),
    "in21k_vit_t16": Source("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", "apache-2.0"),
    "in21k_vit_s16": Source("timm:vit_small_patch16_224.augreg_in21k_ft_in1k", "apache-2.0"),
}
