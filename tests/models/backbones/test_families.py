"""Every family of architectures against timm's and open_clip's own modules, with random weights and small sizes."""

import pytest
import torch
from family_models import (
    FAMILIES,
    NAMES,
    OPEN_CLIP,
    TEXTS,
    at_other_resolution,
    normalised,
    pair,
    projected_images,
    projected_texts,
    random_pixels,
)
from helpers import assert_near, moved, normal_images

from models import Model
from models.backbones.tokenizer import class_prompts
from models.heads import HEAD_INITS
from models.heads.init import no_features


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_features_are_timms_at_two_resolutions(name, device):
    theirs, ours, other = pair(name)
    for backbone, model in ((ours, theirs), (other, at_other_resolution(name))):
        images = normal_images(3, backbone.image.resolution)
        assert_near(moved(backbone.image, device)(images.to(device)), model(images))
    assert other.image.resolution > ours.image.resolution


# ---- open_clip: image features, text features, logits ----


@pytest.mark.parametrize("name", OPEN_CLIP)
@torch.no_grad()
def test_image_features_are_open_clips_at_two_resolutions(name, device):
    theirs, ours, other = pair(name)
    for backbone, model in ((ours, theirs), (other, at_other_resolution(name))):
        images = normal_images(3, backbone.image.resolution)
        assert_near(projected_images(moved(backbone, device), images.to(device)), model.encode_image(images))
    assert other.image.resolution > ours.image.resolution


@pytest.mark.parametrize("name", OPEN_CLIP)
@torch.no_grad()
def test_text_features_are_open_clips(name, device):
    theirs, ours, _ = pair(name)
    tokens = ours.tokenizer(TEXTS)
    assert tokens.shape[1] == OPEN_CLIP[name]["text_cfg"]["context_length"]
    assert_near(projected_texts(moved(ours, device), tokens.to(device)), theirs.encode_text(tokens))


@pytest.mark.parametrize("name", OPEN_CLIP)
@torch.no_grad()
def test_zero_shot_logits_are_open_clips(name, device):
    """With its scale, and SigLIP's bias."""
    theirs, ours, other = pair(name)
    assert (ours.logit_bias is not None) == ("init_logit_bias" in OPEN_CLIP[name])
    for backbone, model in ((ours, theirs), (other, at_other_resolution(name))):
        images = random_pixels(backbone)
        expected, _ = model.get_logits(normalised(images), backbone.tokenizer(class_prompts(NAMES)))
        model = Model.create(moved(backbone, device), NAMES, head=None).to(device).eval()
        assert_near(model(images.to(device)), expected)


@pytest.mark.parametrize("name", OPEN_CLIP)
@torch.no_grad()
def test_semantic_rows_are_their_formula(name):
    """w = t P^T / |t P^T| and, with a bias b of the projection, <t, b> / |t P^T|; w = t where no P is."""
    theirs, ours, _ = pair(name)
    texts = theirs.encode_text(ours.tokenizer(class_prompts(NAMES)), normalize=True)
    linear = theirs.visual.trunk.head if OPEN_CLIP[name]["vision_cfg"].get("timm_proj", "") is None else None
    if name in ("SigLIP", "SigLIP 2"):  # the pooling's feature is in the joint space
        matrix = torch.eye(ours.image.dim)
    elif linear is not None:
        matrix = linear.weight.T
    else:
        matrix = theirs.visual.head.proj.weight.T if hasattr(theirs.visual, "trunk") else theirs.visual.proj
    rows = torch.stack([sum(t[j] * matrix[:, j] for j in range(len(t))) for t in texts])
    lengths = rows.square().sum(1).sqrt()

    weight, bias = HEAD_INITS["semantic"](ours, NAMES, no_features, None)
    assert_near(weight, rows / lengths[:, None])
    assert (bias is None) == (linear is None)
    if linear is not None:
        assert_near(bias, torch.stack([(t * linear.bias).sum() for t in texts]) / lengths)
        # so a linear head's scores are the similarities before normalising the image feature
        images = normal_images(3, ours.image.resolution)
        scores = (ours.image(images) @ weight.T + bias) * lengths
        assert_near(scores, theirs.encode_image(images) @ texts.T)


def test_semantic_rows_exist_with_and_without_projection_and_bias():
    """The three forms of the test above are among the families."""
    forms = {(pair(name).ours.config.image_projection, pair(name).ours.config.image_bias) for name in OPEN_CLIP}
    assert forms == {(True, False), (True, True), (False, False)}
