"""Transformers of timm: its VisionTransformer (augreg, DINOv2, SigLIP, TIPSv2) and its Eva (EVA-02, DINOv3, PE).

A config is read from timm's module, built without memory. An unsupported feature is an error that names it.
"""

from typing import Any

from torch import nn

from models.backbones.backbone import BackboneConfig
from models.backbones.families.clip import HEAD_DIM
from models.backbones.families.features import require
from models.backbones.naming import Naming, Rename
from models.backbones.pooling import Pooling
from models.backbones.rotation import Rotation
from models.backbones.vit import ViTConfig

# names of timm, and of programs whose files it converts: DINOv2's and DINOv3's own, EVA's
BLOCK = (
    (".gamma_1", ".ls1.gamma"),
    (".gamma_2", ".ls2.gamma"),
    (".attn.norm.", ".attn.inner."),
    (".attn.inner_attn_ln.", ".attn.inner."),
    (".mlp.norm.", ".mlp.inner."),
    (".mlp.ffn_ln.", ".mlp.inner."),
    (".mlp.w12.", ".mlp.fc1."),
    (".mlp.w1.", ".mlp.fc1_g."),
    (".mlp.w2.", ".mlp.fc1_x."),
    (".mlp.w3.", ".mlp.fc2."),
)
VIT: tuple[Rename, ...] = (
    ("patch_embed.proj.", "image.patch_embed.", ()),
    ("cls_token", "image.class_token", ()),
    ("reg_token", "image.registers", ()),
    ("storage_tokens", "image.registers", ()),
    ("register_tokens", "image.register_tokens", ()),
    ("pos_embed", "image.positional_embedding", ()),
    ("norm_pre.", "image.norm_pre.", ()),
    ("blocks.", "image.blocks.", BLOCK),
    ("norm.", "image.norm.", ()),
    ("fc_norm.", "image.norm.", ()),
    ("attn_pool.", "image.pooling.", ()),
)
NAMINGS = (Naming("timm's ViT", "blocks.", VIT),)


def plain_vit(dim: int, depth: int, patch: int, resolution: int) -> BackboneConfig:
    """timm's plain ViT."""
    return BackboneConfig(ViTConfig(dim, depth, patch, resolution, heads=max(dim // HEAD_DIM, 1), activation="gelu"))


def plain_terms(config: ViTConfig) -> dict[str, Any]:
    """timm's plain ViT of these sizes, as a config.json describes it; for another form, the model differs."""
    options: dict[str, Any] = {"patch_size": config.patch, "embed_dim": config.dim, "depth": config.depth}
    options |= {"num_heads": config.heads, "act_layer": config.activation}
    options |= {"mlp_ratio": config.hidden / config.dim} if config.hidden else {}
    return {"architecture": "vit_base_patch16_224", "model_args": options}


def vit_config(model: Any) -> ViTConfig:
    """The config of timm's VisionTransformer or Eva. Raises ModelError for an unsupported feature."""
    _require_plain_embedding(model.patch_embed)
    block = model.blocks[0]
    require(len({type(each) for each in model.blocks}) == 1, "blocks of different kinds")
    attention, norms = _attention(block), [model.norm, model.fc_norm, model.norm_pre]
    mlp = block.mlp
    gated, hidden = _mlp(mlp)
    norms += [block.norm1, block.norm2, attention.norm, mlp.norm]
    pooling = _pooling(model)
    has_norm = [not isinstance(norm, nn.Identity) for norm in (model.norm, model.fc_norm)]
    require(not all(has_norm), "two norms after the blocks")
    require(pooling.kind != "token" or not has_norm[1], "a norm of the class token under timm's name fc_norm")
    final_norm = "tokens" if has_norm[0] else "feature" if has_norm[1] else "none"
    if pooling.kind == "token" and final_norm == "tokens":
        final_norm = "feature"  # the same, as a norm treats each token separately
    positions = "none" if model.pos_embed is None else "all"
    if positions == "all" and model.num_prefix_tokens and model.no_embed_class:
        positions = "patches"
    dim, size = model.embed_dim, model.patch_embed.img_size
    require(size[0] == size[1], "images that are not square")
    return ViTConfig(
        dim=dim,
        depth=len(model.blocks),
        patch=model.patch_embed.patch_size[0],
        resolution=size[0],
        heads=attention.num_heads,
        activation=_activation(mlp.act),
        hidden=None if hidden == 4 * dim else hidden,
        eps=_eps(norms),
        patch_bias=model.patch_embed.proj.bias is not None,
        class_token=model.cls_token is not None,
        registers=0 if model.reg_token is None else model.reg_token.shape[1],
        positions=positions,
        norm_pre=not isinstance(model.norm_pre, nn.Identity),
        gated=gated,
        attention_norm=not isinstance(attention.norm, nn.Identity),
        mlp_norm=not isinstance(mlp.norm, nn.Identity),
        rotation=_rotation(model),
        pooling=pooling,
        final_norm=final_norm,
    )


def _require_plain_embedding(embedding: Any) -> None:
    from timm.layers import PatchEmbed

    require(type(embedding) is PatchEmbed, f"a patch embedding of the kind {type(embedding).__name__}")
    require(isinstance(embedding.norm, nn.Identity), "a norm in the patch embedding")
    require(embedding.patch_size[0] == embedding.patch_size[1], "patches that are not square")
    require(embedding.proj.in_channels == 3, f"images of {embedding.proj.in_channels} channels")


def _attention(block: Any) -> Any:
    """The attention of a block with the order of models/backbones/transformer.py. Raises ModelError for others."""
    from timm.layers import Attention, AttentionRope
    from timm.models.eva import EvaAttention, EvaBlock
    from timm.models.vision_transformer import Block

    require(type(block) in (Block, EvaBlock), f"blocks of the kind {type(block).__name__}")
    attention = block.attn
    kinds = (Attention, EvaAttention, AttentionRope)
    require(type(attention) in kinds, f"an attention of the kind {type(attention).__name__}")
    require(isinstance(attention.q_norm, nn.Identity), "a norm of queries and keys")
    require(attention.gate is None, "a gated attention")
    require(getattr(attention, "num_kv_groups", 1) == 1, "grouped queries")
    width = attention.num_heads * attention.head_dim
    require(width == attention.proj.out_features, f"an attention {width} wide in a tower of another width")
    return attention


def _mlp(mlp: Any) -> tuple[bool, int]:
    """Whether an MLP is gated, and its width between the Linears."""
    from timm.layers import GluMlp, Mlp, SwiGLU

    kinds: dict[type, bool] = {Mlp: False, GluMlp: True, SwiGLU: True}
    require(type(mlp) in kinds, f"an MLP of the kind {type(mlp).__name__}")
    require(not getattr(mlp, "gate_last", False), "an MLP whose gate is the second half")
    return kinds[type(mlp)], mlp.fc2.in_features


def _activation(module: Any) -> str:
    """The name of an activation in ACTIVATIONS."""
    from timm.layers import GELU, GELUTanh, QuickGELU

    tanh = isinstance(module, GELUTanh) or getattr(module, "approximate", "none") == "tanh"
    exact = isinstance(module, (nn.GELU, GELU)) and not tanh
    named = {"quick_gelu": isinstance(module, QuickGELU), "gelu_tanh": tanh, "gelu": exact}
    named["silu"] = isinstance(module, nn.SiLU)
    found = next((name for name, matches in named.items() if matches), None)
    require(found is not None, f"the activation {type(module).__name__}")
    return str(found)


def _eps(norms: list[Any]) -> float:
    """The eps of all norms, which are LayerNorms with weight and bias."""
    norms = [norm for norm in norms if not isinstance(norm, nn.Identity)]
    for norm in norms:
        require(isinstance(norm, nn.LayerNorm), f"norms of the kind {type(norm).__name__}")
        require(norm.weight is not None and norm.bias is not None, "norms without a bias")
    found = {norm.eps for norm in norms}
    require(len(found) == 1, f"norms of different eps, {', '.join(map(str, sorted(found)))}")
    return found.pop()


def _pooling(model: Any) -> Pooling:
    from timm.models.eva import Eva

    kind = model.global_pool
    of_all_tokens = type(model) is Eva or model.pool_include_prefix
    if kind == "token":
        return Pooling()
    if kind == "avg":
        require(not of_all_tokens or type(model) is Eva, "a mean over the class token, too")
        return Pooling("mean")
    require(kind == "map", f"pooling '{kind}'")
    pool = model.attn_pool
    require(pool.latent_len == 1 and pool.pool == "token", "pooling by several queries")
    require(pool.pos_embed is None and isinstance(pool.q_norm, nn.Identity), "norms or positions in the pooling")
    require(isinstance(pool.q, nn.Linear) and isinstance(pool.proj, nn.Linear), "pooling without projections")
    return Pooling("attention", pool.num_heads, pool.mlp.fc1.out_features, _activation(pool.mlp.act), of_all_tokens)


def _rotation(model: Any) -> Rotation | None:
    from timm.layers import RotaryEmbeddingCat, RotaryEmbeddingDinoV3

    rope = getattr(model, "rope", None)
    if rope is None:
        return None
    counted, centred = (type(rope) is kind for kind in (RotaryEmbeddingCat, RotaryEmbeddingDinoV3))
    require(counted or centred, f"positions of the kind {type(rope).__name__}")
    reference = getattr(rope, "ref_feat_shape", None)
    require(reference is None or reference[0] == reference[1], "a reference grid that is not square")
    if counted:
        require(rope.grid_type == "index" and not rope.in_pixels, f"positions on a grid of the kind {rope.grid_type}")
    else:
        require(rope.temperature is not None, "rotation with a range of periods")
    return Rotation(
        float(rope.temperature),
        centred=centred,
        offset=float(rope.grid_offset),
        reference=reference[0] if reference else None,
        columns_first=rope.grid_indexing == "xy",
        halves=rope.rotate_half,
    )
