"""CLIP (Radford et al. 2021, arXiv 2103.00020) as OpenAI published it: its configs and its tensor names.

LAION's, DataComp's, DFN's, MetaCLIP's and BioCLIP's have these names, and differ in activation, head width and
normalisation.
"""

from models.backbones.backbone import BackboneConfig
from models.backbones.naming import Naming, Rename
from models.backbones.resnet import ResNetConfig
from models.backbones.text import HEAD_DIM, TextConfig
from models.backbones.vit import ViTConfig


def text_tower(dim: int, depth: int) -> TextConfig:
    """OpenAI's text tower."""
    return TextConfig(dim, depth, heads=max(dim // HEAD_DIM, 1), activation="quick_gelu")


def clip_vit(
    dim: int, depth: int, patch: int, resolution: int, joint: int, text_dim: int, text_depth: int
) -> BackboneConfig:
    """OpenAI's CLIP with a ViT."""
    image = ViTConfig(
        dim,
        depth,
        patch,
        resolution,
        heads=max(dim // HEAD_DIM, 1),
        activation="quick_gelu",
        eps=1e-5,
        patch_bias=False,
        norm_pre=True,
    )
    return BackboneConfig(image, text_tower(text_dim, text_depth), joint, image_projection=True)


def clip_resnet(
    stages: tuple[int, ...], width: int, resolution: int, joint: int, text_dim: int, text_depth: int
) -> BackboneConfig:
    """OpenAI's CLIP with a ResNet, whose attention pool ends in the image projection."""
    return BackboneConfig(ResNetConfig(stages, width, resolution, joint), text_tower(text_dim, text_depth), joint)


# ---- tensor names ----

BLOCK = (
    (".ln_1.", ".norm1."),
    (".attn.in_proj_", ".attn.qkv."),
    (".attn.out_proj.", ".attn.proj."),
    (".ln_2.", ".norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)
LAYER_SCALE = ((".ls_1.", ".ls1."), (".ls_2.", ".ls2."))
TEXT: tuple[Rename, ...] = (
    ("token_embedding.", "text.token_embedding.", ()),
    ("positional_embedding", "text.positional_embedding", ()),
    ("transformer.resblocks.", "text.blocks.", BLOCK + LAYER_SCALE),
    ("ln_final.", "text.norm.", ()),
    ("text_projection", "text_projection", ()),
    ("logit_scale", "logit_scale", ()),
    ("logit_bias", "logit_bias", ()),
)
VIT: tuple[Rename, ...] = (
    ("visual.conv1.", "image.patch_embed.", ()),
    ("visual.class_embedding", "image.class_token", ()),
    ("visual.positional_embedding", "image.positional_embedding", ()),
    ("visual.ln_pre.", "image.norm_pre.", ()),
    ("visual.transformer.resblocks.", "image.blocks.", BLOCK + LAYER_SCALE),
    ("visual.ln_post.", "image.norm.", ()),
    ("visual.proj", "image_projection", ()),
)
ATTENTION_POOLING: tuple[Rename, ...] = (  # of PE's own files (arXiv 2504.13181)
    (
        "visual.attn_pool.",
        "image.pooling.",
        (
            (".probe", ".latent"),
            (".attn.in_proj_", ".qkv."),
            (".attn.out_proj.", ".proj."),
            (".layernorm.", ".norm."),
            (".mlp.c_fc.", ".mlp.fc1."),
            (".mlp.c_proj.", ".mlp.fc2."),
        ),
    ),
)
BOTTLENECK = (
    (".conv1.", ".conv1_1x1.conv."),
    (".bn1.", ".conv1_1x1.bn."),
    (".conv2.", ".conv2_kxk.conv."),
    (".bn2.", ".conv2_kxk.bn."),
    (".conv3.", ".conv3_1x1.conv."),
    (".bn3.", ".conv3_1x1.bn."),
    (".downsample.0.", ".shortcut.conv.conv."),  # the average pool before it, "-1", has no tensors
    (".downsample.1.", ".shortcut.conv.bn."),
)
RESNET: tuple[Rename, ...] = (
    *((f"visual.conv{i}.", f"image.net.stem.conv{i}.conv.", ()) for i in (1, 2, 3)),
    *((f"visual.bn{i}.", f"image.net.stem.conv{i}.bn.", ()) for i in (1, 2, 3)),
    *((f"visual.layer{i + 1}.", f"image.net.stages.{i}.", BOTTLENECK) for i in (0, 1, 2, 3)),
    ("visual.attnpool.positional_embedding", "image.net.head.pos_embed", ()),
    *((f"visual.attnpool.{x}_proj.", f"image.net.head.{x}.", ()) for x in "qkv"),
    ("visual.attnpool.c_proj.", "image.net.head.proj.", ()),
)
NAMINGS = (
    Naming("OpenAI's or open_clip's CLIP ViT", "visual.transformer.", VIT + ATTENTION_POOLING + TEXT),
    Naming("OpenAI's or open_clip's CLIP ResNet", "visual.layer", RESNET + TEXT),
)
