"""The comparisons of test_families.py detect every feature: they fail if one is changed or left out."""

import dataclasses
import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from family_models import (
    NAMES,
    TEXTS,
    at_other_resolution,
    difference,
    normalised,
    pair,
    projected_images,
    projected_texts,
    random_pixels,
    rebuilt,
)
from helpers import normal_images, weights_of
from torch import Tensor

from models import Model
from models.backbones.backbone import BackboneConfig
from models.backbones.pooling import Pooling
from models.backbones.tokenizer import class_prompts
from models.weights.naming import convert_state_dict


class Break(NamedTuple):
    """A fault in one family: a change of the config, of the tensors in the file, or both."""

    family: str
    fault: str
    change: Callable[[BackboneConfig], BackboneConfig] = lambda config: config
    edit: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors
    least: float = 1e-3  # relative difference; the two forms of GELU are at most 5e-4 apart


def image(**fields):
    return lambda config: dataclasses.replace(config, image=dataclasses.replace(config.image, **fields))


def text(**fields):
    return lambda config: dataclasses.replace(config, text=dataclasses.replace(config.text, **fields))


def rotation(**fields):
    return lambda config: image(rotation=dataclasses.replace(config.image.rotation, **fields))(config)


def pooling(**fields):
    return lambda config: image(pooling=dataclasses.replace(config.image.pooling, **fields))(config)


def without(pattern):
    """The tensors without those whose name has the pattern; there are some."""

    def edit(tensors):
        found = {name: value for name, value in tensors.items() if not re.search(pattern, name)}
        assert len(found) < len(tensors)
        return found

    return edit


def exchange_gate_and_value(tensors):
    """As an MLP with the gate as its second half."""
    exchanged = {}
    for name, value in tensors.items():
        other = {"fc1_g": "fc1_x", "fc1_x": "fc1_g"}.get(name.split(".")[-2] if "." in name else "")
        if other:
            exchanged[re.sub("fc1_[gx]", other, name)] = value
        elif ".mlp.fc1." in name:
            exchanged[name] = torch.cat(value.chunk(2)[::-1])
        else:
            exchanged[name] = value
    return exchanged


def positions_on_all(tensors):
    """The patches' positions, and those of the first patches again before them: for DINOv2's five first tokens."""
    positions = tensors["pos_embed"]
    return tensors | {"pos_embed": torch.cat([positions[:, :5], positions], dim=1)}


def positions_on_patches(tensors):
    return tensors | {"pos_embed": tensors["pos_embed"][:, 1:]}


ROTATED = ("DINOv3", "EVA-02, base", "EVA02-CLIP's tower", "PE-Core's tower", "PE-Spatial", "rotation, mean")
BREAKS = [
    # rotation
    *(Break(family, "no rotation", image(rotation=None)) for family in ROTATED),
    *(Break(family, "halves for neighbours", rotation(halves=True)) for family in ROTATED[1:]),
    Break("DINOv3", "neighbours for halves", rotation(halves=False)),
    *(Break(family, "rows and columns", rotation(columns_first=True)) for family in ("DINOv3", "EVA-02, base")),
    *(Break(family, "rows and columns", rotation(columns_first=False)) for family in ("PE-Core's tower", "PE-Spatial")),
    *(Break(family, "temperature", rotation(temperature=1000.0)) for family in ROTATED),
    # differences of positions have no offset, so it acts between patches and the tokens without one
    *(Break(family, "no offset", rotation(offset=0.0)) for family in ("PE-Core's tower", "PE-Spatial")),
    *(Break(family, "an offset", rotation(offset=1.0)) for family in ("DINOv3", "EVA-02, base", "rotation, mean")),
    *(Break(family, "no reference grid", rotation(reference=None)) for family in ROTATED[1:]),
    Break("DINOv3", "counted patches", rotation(centred=False)),
    # blocks
    Break("CLIP's port, quick GELU", "activation", image(activation="gelu")),
    Break("augreg", "activation", image(activation="quick_gelu")),
    Break("augreg", "activation, nearly", image(activation="gelu_tanh"), least=5e-5),
    Break("EVA-02, base", "activation", image(activation="gelu")),
    Break("DINOv2, gated", "activation", image(activation="gelu")),
    Break("LAION", "activation", image(activation="quick_gelu")),
    *(Break(family, "heads", image(heads=4)) for family in ("augreg", "DINOv3", "PE-Core's tower", "LAION", "ViT-H")),
    *(
        Break(family, "gate and value", edit=exchange_gate_and_value)
        for family in ("DINOv2, gated", "DINOv3, gated", "EVA-02, tiny", "EVA02-CLIP's tower")
    ),
    *(Break(family, "no norm in the MLP", image(mlp_norm=False)) for family in ("EVA-02, base", "EVA02-CLIP's tower")),
    Break("EVA02-CLIP's tower", "no norm in the attention", image(attention_norm=False)),
    *(
        Break(family, "no LayerScale", edit=without(r"gamma"))
        for family in ("DeiT III", "DINOv2", "DINOv2, registers", "TIPSv2", "DINOv3", "registers, mean")
    ),
    Break("LayerScale", "no LayerScale in the images", edit=without(r"visual.*gamma")),
    Break("LayerScale", "no LayerScale in the texts", edit=without(r"^transformer.*gamma")),
    *(
        Break(family, "no biases of q and v", edit=without(r"attn\.(q_bias|v_bias|[qv]_proj\.bias|qkv\.bias)"))
        for family in ("DINOv3, biases", "EVA", "EVA-02, base")
    ),
    *(
        Break(family, "eps", image(eps=1e-5))
        for family in ("augreg", "DINOv2", "SigLIP 2's tower", "EVA-02, tiny", "EVA02-CLIP's tower")
    ),
    *(Break(family, "eps", image(eps=1e-6)) for family in ("DINOv3", "PE-Core's tower", "LAION", "MobileCLIP2-L-14")),
    # tokens and positions
    Break("augreg", "no bias of the patches", image(patch_bias=False)),
    *(
        Break(family, "no registers", image(registers=0))
        for family in ("DINOv2, registers", "TIPSv2", "DINOv3", "registers, mean", "rotation, mean")
    ),
    Break("DINOv2, registers", "positions on all", image(positions="all"), positions_on_all),
    Break("augreg", "positions on the patches", image(positions="patches"), positions_on_patches),
    *(Break(family, "no positions", image(positions="none")) for family in ("augreg", "PE-Core's tower", "DeiT III")),
    *(
        Break(family, "no norm before the blocks", image(norm_pre=False))
        for family in ("CLIP's port, quick GELU", "PE-Core's tower", "PE-Spatial", "LAION")
    ),
    # pooling
    *(
        Break(family, "class token", image(pooling=Pooling()))
        for family in ("DINOv3", "EVA", "PE-Core's tower", "CLIPA's image tower", "SigLIP 2's tower")
    ),
    *(
        Break(family, "mean", image(pooling=Pooling("mean"), final_norm="tokens"))
        for family in ("PE-Core's tower", "SigLIP 2's tower", "DINOv2", "LAION")
    ),
    Break("PE-Core's tower", "pooling of the patches alone", pooling(first_tokens=False)),
    *(Break(family, "heads of the pooling", pooling(heads=1)) for family in ("PE-Core's tower", "SigLIP 2's tower")),
    Break("SigLIP 2's tower", "activation of the pooling", pooling(activation="quick_gelu")),
    *(
        Break(family, "norm after the mean", image(final_norm="feature"))
        for family in ("DINOv3", "SigLIP 2's tower, mean", "mean of normed tokens")
    ),
    *(
        Break(family, "norm before the mean", image(final_norm="tokens"))
        for family in ("EVA-02, base", "registers, mean", "CLIPA's image tower")
    ),
    # texts, and where they meet the images
    Break("LAION", "activation of the texts", text(activation="quick_gelu")),
    Break("SigLIP 2", "activation of the texts", text(activation="gelu"), least=5e-5),
    Break("SigLIP", "activation of the texts", text(activation="gelu_tanh"), least=5e-5),
    *(Break(family, "no causal mask", text(causal=False)) for family in ("OpenAI", "LAION", "PE-Core", "EVA02-CLIP")),
    *(Break(family, "a causal mask", text(causal=True)) for family in ("SigLIP", "MobileCLIP2-L-14")),
    *(Break(family, "last token", text(pool="last")) for family in ("LAION", "PE-Core", "MobileCLIP2-L-14")),
    *(Break(family, "end token", text(pool="end")) for family in ("SigLIP", "SigLIP 2")),
    *(Break(family, "heads of the texts", text(heads=4)) for family in ("LAION", "SigLIP 2")),
    Break("LAION", "eps of the texts", text(eps=1e-6)),
    Break("SigLIP 2", "eps of the texts", text(eps=1e-5)),
    Break("SigLIP 2", "no bias of the text projection", text(projection_bias=False)),
    Break("LAION", "scale of the logits", edit=lambda tensors: tensors | {"logit_scale": torch.tensor(0.0)}),
    *(
        Break(family, "no bias of the logits", lambda config: dataclasses.replace(config, logit_bias=False))
        for family in ("SigLIP", "SigLIP 2")
    ),
    *(
        Break(family, "no bias of the projection", lambda config: dataclasses.replace(config, image_bias=False))
        for family in ("PE-Core", "EVA02-CLIP")
    ),
]


def differences(theirs, ours):
    """Relative, of image features, text features and logits; see `difference`."""
    images = normal_images(3, ours.image.resolution)
    if ours.text is None:
        return [difference(ours.image(images), theirs(images))]
    tokens, pixels = ours.tokenizer(TEXTS), random_pixels(ours)
    logits, _ = theirs.get_logits(normalised(pixels), ours.tokenizer(class_prompts(NAMES)))
    return [
        difference(projected_images(ours, images), theirs.encode_image(images)),
        difference(projected_texts(ours, tokens), theirs.encode_text(tokens)),
        difference(Model.create(ours, NAMES, head=None).eval()(pixels), logits),
    ]


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: f"{broken.family}: {broken.fault}")
@torch.no_grad()
def test_each_feature_matters(broken):
    theirs, ours, _ = pair(broken.family)
    config, tensors = broken.change(ours.config), broken.edit(weights_of(theirs))
    found = rebuilt(config, convert_state_dict(tensors), ours)
    assert max(differences(theirs, found)) > broken.least


@pytest.mark.parametrize("family", sorted({broken.family for broken in BREAKS}))
@torch.no_grad()
def test_without_a_fault_the_same_comparison_holds(family):
    theirs, ours, _ = pair(family)
    found = rebuilt(ours.config, convert_state_dict(weights_of(theirs)), ours)
    assert max(differences(theirs, found)) < 1e-5


@pytest.mark.parametrize("family", ROTATED[1:])
@torch.no_grad()
def test_the_reference_grid_matters_at_the_other_resolution(family):
    """Patches with the spacing of the model's own resolution have other features."""
    _, ours, other = pair(family)
    reference = other.config.image.rotation.reference * other.config.image.side // ours.config.image.side
    found = rebuilt(rotation(reference=reference)(other.config), other.state_dict(), other)
    images = normal_images(3, other.image.resolution)
    expected = at_other_resolution(family)(images)
    assert difference(found.image(images), expected) > 1e-3
    assert difference(other.image(images), expected) < 1e-5
