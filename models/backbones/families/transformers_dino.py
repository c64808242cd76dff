"""DINOv2 and DINOv3 under the tensor names of Hugging Face's transformers.

Their repositories have no description that is read here, so such a file needs a name: -b dinov3_vit_b16 weights FILE.
Version 5 has other names in memory than in its files: both are read.
"""

from models.backbones.naming import Naming, Rename

BLOCK = (
    (".attention.attention.query.", ".attn.q_proj."),
    (".attention.attention.key.", ".attn.k_proj."),
    (".attention.attention.value.", ".attn.v_proj."),
    (".attention.output.dense.", ".attn.proj."),
    (".attention.o_proj.", ".attn.proj."),
    (".attention.", ".attn."),
    (".layer_scale1.lambda1", ".ls1.gamma"),
    (".layer_scale2.lambda1", ".ls2.gamma"),
    (".mlp.weights_in.", ".mlp.fc1."),
    (".mlp.weights_out.", ".mlp.fc2."),
    (".mlp.gate_proj.", ".mlp.fc1_g."),
    (".mlp.up_proj.", ".mlp.fc1_x."),  # the whole of fc1 where there is no gate
    (".mlp.down_proj.", ".mlp.fc2."),
)
EMBEDDINGS: tuple[Rename, ...] = (
    ("embeddings.cls_token", "image.class_token", ()),
    ("embeddings.position_embeddings", "image.positional_embedding", ()),
    ("embeddings.patch_embeddings.projection.", "image.patch_embed.", ()),
    ("embeddings.patch_embeddings.", "image.patch_embed.", ()),
)
DINOV2: tuple[Rename, ...] = (
    *EMBEDDINGS,
    ("embeddings.register_tokens", "image.register_tokens", ()),
    ("encoder.layer.", "image.blocks.", BLOCK),
    ("layernorm.", "image.norm.", ()),
)
DINOV3: tuple[Rename, ...] = (
    *EMBEDDINGS,
    ("embeddings.register_tokens", "image.registers", ()),
    ("layer.", "image.blocks.", BLOCK),
    ("norm.", "image.norm.", ()),
)
NAMINGS = (
    Naming("transformers' DINOv2", "encoder.layer.0.layer_scale1.", DINOV2),
    Naming("transformers' DINOv3", "layer.0.layer_scale1.", DINOV3),
)
