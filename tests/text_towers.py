"""Small text towers with random weights: open_clip's own modules, and native ones with the same weights."""

from pathlib import Path

import torch
from helpers import copied, randomize
from torch import nn

from models.backbones.backbone import Backbone
from models.backbones.families.clip import clip_vit
from models.backbones.file_tokenizer import CONFIG_JSON, TOKENIZER_JSON, Files, FileTokenizer
from models.backbones.text import TextConfig, TextTransformer
from models.backbones.tokenizer import ClipTokenizer

TOKENIZERS = Path(__file__).parent / "models/backbones/tokenizers"
JOINT, DIM = 48, 64  # width of the joint space, and of the image features
SIGLIP = {
    "context_length": 64,
    "vocab_size": 900,
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
    "mlp_ratio": 3.7362,
}
# open_clip's text_cfg beside width, heads and layers, as its model_configs have them, and our description of the same
KINDS = {
    "clip": ({"quick_gelu": True}, TextConfig(128, 2)),
    "laion": ({}, TextConfig(128, 2, activation="gelu")),
    "pe": ({"context_length": 32}, TextConfig(128, 2, 32, activation="gelu")),
    "mobileclip": ({"no_causal_mask": True}, TextConfig(128, 2, activation="gelu", causal=False)),
    "siglip": (
        SIGLIP,
        TextConfig(
            128,
            2,
            64,
            900,
            hidden=478,
            activation="gelu",
            eps=1e-6,
            causal=False,
            pool="last",
            projection_bias=True,
            tokenizer="t5",
            clean="canonicalize",
        ),
    ),
    "siglip2": (
        SIGLIP | {"act_kwargs": {"approximate": "tanh"}},
        TextConfig(
            128,
            2,
            64,
            900,
            hidden=478,
            activation="gelu_tanh",
            eps=1e-6,
            causal=False,
            pool="last",
            projection_bias=True,
            tokenizer="gemma",
            clean="canonicalize",
        ),
    ),
}
RENAMES = (
    ("transformer.resblocks.", "blocks."),
    (".ln_1.", ".norm1."),
    (".attn.in_proj_", ".attn.qkv."),
    (".attn.out_proj.", ".attn.proj."),
    (".ln_2.", ".norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    ("ln_final.", "norm."),
)


def tokenizer_of(config: TextConfig):
    """The tokenizer of a KIND: CLIP's, or the one with that name in TOKENIZERS."""
    if not config.tokenizer:
        return ClipTokenizer(config.context)
    folder = TOKENIZERS / config.tokenizer
    return FileTokenizer(lambda: Files(folder / TOKENIZER_JSON, folder / CONFIG_JSON), config.context, config.clean)


@copied
def open_clip_pair(kind: str, seed: int = 0, image_bias: bool = False) -> nn.Module:
    """open_clip's own CustomTextCLIP of a KIND; a Linear from features [B, DIM] replaces its image tower.

    SigLIP's have a logit bias. The embeddings are so small that the eps of the norms matters.
    """
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP

    given, config = KINDS[kind]
    given = dict(given)
    quick_gelu = given.pop("quick_gelu", False)
    text = CLIPTextCfg(**given, width=config.dim, heads=config.dim // 64, layers=config.depth)
    vision = CLIPVisionCfg(layers=1, width=64, image_size=16)
    bias = -10.0 if kind.startswith("siglip") else None
    model = CustomTextCLIP(JOINT, vision, text, quick_gelu=quick_gelu, init_logit_bias=bias)
    model.visual = nn.Linear(DIM, JOINT, bias=image_bias)
    randomize(model.text, seed)
    randomize(model.visual, seed + 1)
    with torch.no_grad():
        model.text.token_embedding.weight.mul_(0.01)
        model.text.positional_embedding.mul_(0.01)
    return model.eval()


def our_tower(theirs: nn.Module, config: TextConfig) -> TextTransformer:
    """The native text tower of this description with the weights of open_clip's."""
    state = {}
    for name, value in theirs.text.state_dict().items():
        for old, new in RENAMES:
            name = name.replace(old, new)
        state[name] = value.clone()
    with torch.device("meta"):
        tower = TextTransformer(config)
    state = {name: nn.Parameter(value) for name, value in state.items() if not name.startswith("text_projection")}
    tower.load_state_dict(state, assign=True)
    return tower.eval()


def our_backbone(theirs: nn.Module, kind: str) -> Backbone:
    """The native backbone with the weights of open_clip's; its image tower is random."""
    torch.manual_seed(0)
    backbone = Backbone(clip_vit(64, 1, 8, 16, JOINT, 64, 1))  # the text tower is replaced
    config = KINDS[kind][1]
    backbone.text, backbone.tokenizer = our_tower(theirs, config), tokenizer_of(config)
    projection = theirs.text.text_projection
    if config.projection_bias:
        backbone.text_projection = nn.Parameter(projection.weight.detach().T.clone())
        backbone.text_projection_bias = nn.Parameter(projection.bias.detach().clone())
    else:
        backbone.text_projection = nn.Parameter(projection.detach().clone())
    backbone.image_projection = nn.Parameter(theirs.visual.weight.detach().T.clone())
    if theirs.visual.bias is not None:
        backbone.image_projection_bias = nn.Parameter(theirs.visual.bias.detach().clone())
    backbone.logit_scale = nn.Parameter(theirs.logit_scale.detach().clone())
    if theirs.logit_bias is not None:
        backbone.logit_bias = nn.Parameter(theirs.logit_bias.detach().clone())
    backbone.mean = backbone.std = (0.5, 0.5, 0.5)
    return backbone
