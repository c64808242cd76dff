"""Files from the authors themselves and from transformers, with the authors' names of tensors.

The features are those of timm's module after timm's own conversion, and those of transformers.

transformers_features.json has tensor names, shapes and features (pooler_output) of transformers' models with the
weights and images of `wave` below, in the order of the sorted names. To recompute it:

    model = CLASS.from_pretrained(FOLDER), where FOLDER has CLASS(CONFIG).save_pretrained's files, with these weights
"""

import copy
import json
from pathlib import Path

import published
import pytest
import timm
import torch
from full_size import quick_meta, without_first_values
from helpers import assert_near, normal_images, randomize, refused, weights_of
from published import SMALL
from safetensors.torch import save_file
from timm.models import eva, vision_transformer

from models.weights.descriptions import describe_timm
from models.weights.find import timm_entry
from models.weights.load import load_backbone
from utils.config.parsing import NORMALISATIONS
from utils.errors import ModelError

IMAGENET = [0.485, 0.456, 0.406]
ROWS = json.loads(Path(__file__).with_name("transformers_features.json").read_text())["rows"]
TIMMS = {  # by row: timm's name of the architecture, and options
    "DINOv2": ("vit_base_patch14_dinov2", {}),
    "DINOv2, registers": ("vit_base_patch14_reg4_dinov2", {}),
    "DINOv2, gated": ("vit_giant_patch14_dinov2", {"mlp_ratio": 4 * 48 / 64 * 2}),
    "DINOv3": ("vit_base_patch16_dinov3", {}),
    "DINOv3, gated": ("vit_small_plus_patch16_dinov3", {"mlp_ratio": 4}),
}


def wave(shape, seed):
    """float32 values between -1 and 1 that depend on no random generator."""
    n = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(n * (n + seed) * 0.37).view(*shape).float()


def described(folder, architecture, options):
    """Writes timm's config.json, whose feature is the class token, if the architecture has one."""
    content = {"architecture": architecture, "model_args": options}
    content |= {"pretrained_cfg": {"mean": IMAGENET, "std": IMAGENET}}
    (folder / "config.json").write_text(json.dumps(content))


# ---- transformers ----


def transformers_state(row):
    state = {}
    for seed, (name, shape) in enumerate(row["tensors"].items()):
        value = wave(shape, seed)
        if len(shape) == 1:
            value = 0.3 * value + (not name.endswith("bias"))
        elif not name.startswith("embeddings"):
            value = 2 * value / torch.Size(shape[1:]).numel() ** 0.5
        state[name] = value
    return state


def renamed(state, *renames):
    """The tensors under other names; renames: (old, new) substrings, in turn."""
    result = {}
    for name, value in state.items():
        for old, new in renames:
            name = name.replace(old, new)
        result[name] = value
    return result


def in_memory(state):
    """The names that version 5 of transformers has in memory; its files have the former ones."""
    state = renamed(
        state,
        *((f".attention.{word}.", f".{word[0]}_proj.") for word in ("query", "key", "value")),
        (".output.dense.", ".o_proj."),
        (".weights_out.", ".down_proj."),
    )
    for name in [name for name in state if ".weights_in." in name]:
        gate, value = state.pop(name).chunk(2)
        state |= {name.replace("weights_in", "gate_proj"): gate, name.replace("weights_in", "up_proj"): value}
    return {f"model.{name}" if name.startswith("layer.") else name: value for name, value in state.items()}


def of_classifier(state):
    return {"classifier.weight": torch.ones(2, 32)} | {f"dinov2.{name}": value for name, value in state.items()}


STORED = {"in files": dict, "in memory": in_memory, "of a classifier": of_classifier}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("name", ROWS)
@torch.no_grad()
def test_features_of_transformers(name, stored, tmp_path):
    row, (architecture, options) = ROWS[name], TIMMS[name]
    config = row["config"]
    torch.save(STORED[stored](transformers_state(row)), tmp_path / "w.bin")
    sizes = {"img_size": config["image_size"], "patch_size": config["patch_size"], "global_pool": "token"}
    described(tmp_path, architecture, sizes | {"embed_dim": 16, "depth": 2, "num_heads": 2} | options)
    ours = load_backbone("vit", str(tmp_path / "w.bin"))[0]
    images = wave((2, 3, config["image_size"], config["image_size"]), 5)
    assert_near(ours.image(images), torch.tensor(row["features"]))


# ---- the authors' own, and timm's conversion of them ----

ONES = torch.ones(64)


def dinov2(state, dim=64):
    """Meta's dinov2_*_pretrain.pth."""
    gated = state["blocks.0.mlp.fc1.weight"].shape[0] > 4 * dim
    renames = ((".fc1.", ".w12."), (".fc2.", ".w3.")) if gated else ()
    return renamed(state, *renames) | {"mask_token": ONES[None]}


def dinov2_registers(state, dim=64):
    """Meta's dinov2_*_reg4_pretrain.pth: the class token has a position."""
    position = torch.randn(1, 1, dim, generator=torch.Generator().manual_seed(1))
    positions = torch.cat([position, state["pos_embed"]], 1)
    state = renamed(state, ("reg_token", "register_tokens"))
    return state | {"pos_embed": positions, "mask_token": ONES[None]}


def dinov3(state, dim=64):
    """Meta's dinov3_*.pth: a bias of queries, keys and values, and a mask that leaves out that of the keys."""
    gated = "blocks.0.mlp.fc1_g.weight" in state
    renames = ((".fc1_g.", ".w1."), (".fc1_x.", ".w2."), (".fc2.", ".w3.")) if gated else ()
    state = renamed(
        state, *renames, (".gamma_1", ".ls1.gamma"), (".gamma_2", ".ls2.gamma"), ("reg_token", "storage_tokens")
    )
    for attention in [name.removesuffix(".q_bias") for name in state if name.endswith(".q_bias")]:
        q, v = (state.pop(f"{attention}.{letter}_bias") for letter in "qv")
        state[f"{attention}.qkv.bias"] = torch.cat([q, torch.ones_like(q), v])
        state[f"{attention}.qkv.bias_mask"] = torch.cat([torch.ones_like(q), torch.zeros_like(q), torch.ones_like(q)])
    state |= {"rope_embed.periods": torch.ones(8), "mask_token": ONES[None]}
    return state | {"local_cls_norm.weight": ONES, "local_cls_norm.bias": ONES}


AUTHORS = {  # architecture, options, function from timm's tensors to the authors', timm's conversion
    "DINOv2": ("vit_base_patch14_dinov2", {}, dinov2, vision_transformer),
    "DINOv2, registers": ("vit_base_patch14_reg4_dinov2", {}, dinov2_registers, vision_transformer),
    "DINOv2, gated": ("vit_giant_patch14_dinov2", {"mlp_ratio": 6}, dinov2, vision_transformer),
    "DINOv3": ("vit_base_patch16_dinov3_qkvb", {}, dinov3, eva),
    "DINOv3, gated": ("vit_small_plus_patch16_dinov3_qkvb", {}, dinov3, eva),
}


@pytest.mark.parametrize("name", AUTHORS)
@torch.no_grad()
def test_image_features_after_timms_conversion(name, tmp_path):
    architecture, options, rename, library = AUTHORS[name]
    options = SMALL | {"global_pool": "token"} | options
    theirs = randomize(timm.create_model(architecture, num_classes=0, **options)).eval()
    state = rename(weights_of(theirs))
    torch.save(state, tmp_path / "w.pth")
    theirs.load_state_dict(library.checkpoint_filter_fn(dict(state), theirs))
    described(tmp_path, architecture, options)
    images = normal_images(2, 32)
    assert_near(load_backbone("vit", str(tmp_path / "w.pth"))[0].image(images), theirs(images))


def pe(state):
    """Meta's PE-Core-*.pt: OpenAI's names, an attention pooling, and a projection without bias."""
    state = renamed(
        state,
        ("text.", ""),
        ("trunk.attn_pool.latent", "attn_pool.probe"),
        ("trunk.attn_pool.proj.", "attn_pool.attn.out_proj."),
        ("trunk.attn_pool.norm.", "attn_pool.layernorm."),
        ("trunk.attn_pool.", "attn_pool."),
        ("trunk.patch_embed.proj.", "conv1."),
        ("trunk.norm_pre.", "ln_pre."),
        ("trunk.norm.", "ln_post."),
        ("trunk.blocks.", "transformer.resblocks."),
        (".norm1.", ".ln_1."),
        (".norm2.", ".ln_2."),
        (".attn.qkv.", ".attn.in_proj_"),
        (".attn.proj.", ".attn.out_proj."),
        (".mlp.fc1.", ".mlp.c_fc."),
        (".mlp.fc2.", ".mlp.c_proj."),
    )
    for kind in ("weight", "bias"):
        parts = [state.pop(f"visual.attn_pool.{part}.{kind}") for part in ("q", "kv")]
        state[f"visual.attn_pool.attn.in_proj_{kind}"] = torch.cat(parts)
    del state["visual.trunk.head.bias"]
    state["visual.proj"] = state.pop("visual.trunk.head.weight").t().contiguous()
    state["visual.class_embedding"] = state.pop("visual.trunk.cls_token")[0, 0]
    state["visual.positional_embedding"] = state.pop("visual.trunk.pos_embed")[0]
    return state


def eva_clip(state):
    """EVA-CLIP's own EVA02_CLIP_*.pt."""
    state = renamed(
        state,
        ("visual.trunk.", "visual."),
        (".q_proj.bias", ".q_bias"),
        (".v_proj.bias", ".v_bias"),
        (".fc1_g.", ".w1."),
        (".fc1_x.", ".w2."),
        (".mlp.norm.", ".mlp.ffn_ln."),
        (".attn.norm.", ".attn.inner_attn_ln."),
    )
    state = {n.replace(".fc2.", ".w3.") if n.startswith("visual.") else n: v for n, v in state.items()}
    return state | {"visual.rope.freqs_cos": ONES, "visual.blocks.0.attn.rope.freqs_sin": ONES}


@pytest.mark.parametrize(("name", "rename"), [("pe_core", pe), ("eva02_clip", eva_clip)])
@torch.no_grad()
def test_image_and_text_features_after_timms_conversion(name, rename, tmp_path):
    model, files = published.repository(name)
    theirs = copy.deepcopy(model)
    state = rename(weights_of(theirs))
    torch.save(state, tmp_path / "w.pt")
    theirs.visual.trunk.load_state_dict(eva.checkpoint_filter_fn(dict(state), theirs.visual.trunk))
    (tmp_path / "open_clip_config.json").write_bytes(files["open_clip_config.json"])
    ours = load_backbone("clip_vit", str(tmp_path / "w.pt"))[0]
    images, tokens = normal_images(2, 32), ours.tokenizer(["a photo of a cat.", "zero"])
    assert_near(ours.image(images) @ ours.image_projection + ours.image_projection_bias, theirs.encode_image(images))
    assert_near(ours.text(tokens) @ ours.text_projection, theirs.encode_text(tokens))


# ---- under a name ----


NAMES = {  # timm's architecture, the authors' names of its tensors, timm's conversion, and a resolution
    "dinov2_vit_s14": ("vit_small_patch14_dinov2", dinov2, vision_transformer, 42),
    "dinov2_reg_vit_s14": ("vit_small_patch14_reg4_dinov2", dinov2_registers, vision_transformer, 42),
    "dinov3_vit_s16": ("vit_small_patch16_dinov3_qkvb", dinov3, eva, 48),
}


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_authors_file_needs_no_key_beside_the_name(name, tmp_path):
    """Full size, and features of the class token at a small resolution."""
    architecture, rename, library, resolution = NAMES[name]
    with without_first_values():
        theirs = timm.create_model(architecture, num_classes=0, global_pool="token")
    randomize(theirs).eval()
    state = rename(weights_of(theirs), 384)
    torch.save(state, tmp_path / "w.pth")
    theirs.load_state_dict(library.checkpoint_filter_fn(dict(state), theirs))
    ours, found = load_backbone(name, str(tmp_path / "w.pth"), resolution=resolution)
    theirs.set_input_size(img_size=(resolution, resolution))
    images = normal_images(2, resolution)
    assert_near(ours.image(images), theirs(images))
    assert ours.mean == tuple(IMAGENET)
    assert not found.published


def test_images_are_224_pixels_where_dinov2s_are_518(tmp_path):
    save_file(full_size("vit_small_patch14_dinov2"), tmp_path / "w.safetensors")
    assert load_backbone("dinov2_vit_s14", str(tmp_path / "w.safetensors"))[0].image.resolution == 224


def test_no_other_model_of_timm_has_positions_for_dinov2s_resolution():
    """So these positions identify it: activation, eps, head width and normalisation are those of DINOv2."""
    found = set()
    for name in timm.list_pretrained():
        if timm.get_pretrained_cfg(name).input_size[-1] == 518 and "giant" not in name:  # these are gated, and wider
            known = describe_timm(name, timm_entry(name), name)
            image = known.config.image
            found.add((image.patch, image.activation, image.eps, image.dim // image.heads, known.mean, known.std))
    assert found == {(14, "gelu", 1e-6, 64, *NORMALISATIONS["imagenet"])}


# ---- files that a name does not fit ----


def full_size(architecture, **options):
    """Zeros under the names of timm's tensors."""
    with quick_meta():
        model = timm.create_model(architecture, num_classes=0, **options)
    return {name: torch.zeros(value.shape, dtype=torch.bfloat16) for name, value in model.state_dict().items()}


OTHERS = {  # name, file, kind of the error
    "registers": ("dinov2_vit_s14", lambda: full_size("vit_small_patch14_reg4_dinov2"), "wrong_size"),
    "no registers": ("dinov2_reg_vit_s14", lambda: full_size("vit_small_patch14_dinov2"), "wrong_size"),
    "another size": ("dinov3_vit_b16", lambda: full_size("vit_small_patch16_dinov3"), "wrong_size"),
    "other positions": ("dinov2_vit_s14", lambda: full_size("vit_small_patch14_dinov2", img_size=224), "wrong_size"),
    "another family of timm": ("dinov3_vit_s16", lambda: full_size("vit_small_patch16_224"), "wrong_size"),
    "a gated MLP": ("dinov3_vit_s16", lambda: full_size("vit_small_plus_patch16_dinov3"), "wrong_shapes"),
    "a CLIP": ("dinov2_vit_b14", lambda: weights_of(published.repository("laion")[0]), "wrong_family"),
    "an image tower": ("siglip2_vit_b16", lambda: full_size("vit_base_patch16_siglip_224", depth=1), "wrong_family"),
    "another CLIP": ("siglip2_vit_b16", lambda: weights_of(published.repository("laion")[0]), "wrong_size"),
    "transformers' ViT": (
        "dinov2_vit_b14",
        lambda: {"encoder.layer.0.attention.attention.query.weight": torch.zeros(8, 8)},
        "unknown_naming",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_file_that_the_name_does_not_fit_is_refused(case, tmp_path):
    name, state, kind = OTHERS[case]
    torch.save(state(), tmp_path / "w.pth")
    with refused(ModelError, kind=kind, path=tmp_path / "w.pth"):
        load_backbone(name, str(tmp_path / "w.pth"))
