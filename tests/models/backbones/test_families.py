"""Every family of architectures against timm's and open_clip's own modules, with random weights and small sizes."""

import json

import pytest
import timm
import torch
from helpers import assert_near, normal_images, randomize, weights_of
from safetensors.torch import save_file

from models.weights.load import load_backbone

SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2}
WIDE = SMALL | {"embed_dim": 128}
# timm's architecture and small sizes of it; the resolution is four patches, the other one six
FAMILIES = {
    "augreg": ("vit_tiny_patch16_224", SMALL),
    "augreg, heads of 32": ("vit_small_patch16_224", WIDE | {"num_heads": 4}),
    "CLIP's port, quick GELU": ("vit_base_patch16_clip_quickgelu_224", SMALL),
    "DeiT III": ("deit3_small_patch16_224", SMALL),
    "DINOv2": ("vit_base_patch14_dinov2", SMALL),
    "DINOv2, registers": ("vit_base_patch14_reg4_dinov2", SMALL),
    "DINOv2, gated": ("vit_giant_patch14_reg4_dinov2", SMALL | {"mlp_ratio": 4}),
    "TIPSv2": ("vit_base_patch14_reg1_tipsv2", SMALL),
    "SigLIP 2": ("vit_base_patch16_siglip_224", SMALL),
    "SigLIP 2, mean": ("vit_base_patch16_siglip_gap_224", SMALL),
    "SO400M": ("vit_so400m_patch14_siglip_224", SMALL | {"embed_dim": 72}),
    "registers, mean": ("vit_medium_patch16_reg1_gap_256", SMALL),
    "DINOv3": ("vit_base_patch16_dinov3", SMALL),
    "DINOv3, biases": ("vit_base_patch16_dinov3_qkvb", SMALL),
    "DINOv3, gated": ("vit_small_plus_patch16_dinov3", SMALL),
    "PE-Core": ("vit_pe_core_base_patch16_224", SMALL | {"attn_pool_num_heads": 4}),
    "PE-Spatial": ("vit_pe_spatial_base_patch16_512", SMALL),
    "EVA-02, tiny": ("eva02_tiny_patch14_224", SMALL),
    "EVA-02, base": ("eva02_base_patch14_224", SMALL),
    "EVA02-CLIP": ("eva02_base_patch16_clip_224", SMALL),
    "EVA": ("eva_large_patch14_196", SMALL),
    "rotation, mean": ("vit_medium_patch16_rope_reg1_gap_256", SMALL),
}


def timm_model(architecture, sizes, patches=4):
    """timm's own module in small, without a classifier, and the options that it was made with."""
    patch = int(architecture.partition("_patch")[2][:2])
    options = sizes | {"img_size": patches * patch, "num_classes": 0}
    return randomize(timm.create_model(architecture, **options)).eval(), options


@pytest.fixture
def load(tmp_path):
    """load(theirs, architecture, options, resolution) -> our backbone, from a file with a config.json beside it."""

    def load(theirs, architecture, options, resolution=None):
        save_file(weights_of(theirs), tmp_path / "model.safetensors")
        config = {"architecture": architecture, "model_args": options}
        config["pretrained_cfg"] = {"mean": [0.5] * 3, "std": [0.5] * 3}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return load_backbone("vit", str(tmp_path / "model.safetensors"), resolution=resolution)[0]

    return load


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_features_are_timms_at_two_resolutions(name, load):
    architecture, sizes = FAMILIES[name]
    theirs, options = timm_model(architecture, sizes)
    ours = load(theirs, architecture, options)
    images = normal_images(3, options["img_size"])
    assert_near(ours.image(images), theirs(images))

    resolution = 6 * options["img_size"] // 4
    ours = load(theirs, architecture, options, resolution)
    theirs.set_input_size(img_size=(resolution, resolution))
    images = normal_images(3, resolution)
    assert_near(ours.image(images), theirs(images))
