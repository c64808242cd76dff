"""The ResNet towers against open_clip's and timm's own modules with the same weights; precision; fixed statistics."""

import helpers
import pytest
import torch
from helpers import RESNET_RESOLUTION, STAGES, assert_near, normal_images
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.backbone import Backbone
from models.text import tokenize
from models.weights import BACKBONES
from utils.runtime import FrozenWeights

RESNETS = [name for name, source in BACKBONES.items() if source.geometry.resnet]
TRAINED = {
    "nothing": lambda name: False,
    "biases": lambda name: name.endswith("bias"),
    "everything": lambda name: True,
}


@pytest.fixture(scope="module")
def clip_pair(tmp_path_factory):
    return helpers.clip_resnet_pair(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def timm_pair(tmp_path_factory):
    return helpers.resnet_pair(tmp_path_factory.mktemp("weights"))


@pytest.fixture(params=["clip_pair", "timm_pair"])
def tower(request):
    """Our tower of either form, in float32, in training mode as a trainer has it; nothing trains."""
    return request.getfixturevalue(request.param)[1].image.requires_grad_(False).train()


def images_of_contrasts(resolution=RESNET_RESOLUTION):
    """Three images that the pooling does not average to the same."""
    return normal_images(3, resolution) * torch.tensor([0.5, 1, 2]).view(3, 1, 1, 1)


def let_train(tower, what):
    """Lets the parameters inside the stages train that TRAINED tells; returns them."""
    trained = [p for stage in tower.stages for name, p in stage.named_parameters() if TRAINED[what](name)]
    for parameter in trained:
        parameter.requires_grad_(True)
    return trained


# ---- the networks ----


@torch.no_grad()
def test_clip_image_tower_is_open_clips(clip_pair):
    theirs, ours = clip_pair
    images = images_of_contrasts()
    features = ours.image(images)
    assert_near(features, theirs.encode_image(images))
    assert features.shape == (3, ours.image.dim) == (3, ours.geometry.joint)
    assert features.std(dim=0).mean() > 0.01  # they tell images apart
    assert ours.image_projection is None


@torch.no_grad()
def test_clip_text_tower_is_open_clips(clip_pair):
    theirs, ours = clip_pair
    tokens = tokenize(["a cat.", "a photo of a very small dog that sleeps in the sun.", "x"])
    assert_near(ours.text(tokens) @ ours.text_projection, theirs.encode_text(tokens))
    prompts = tokenize(["a photo of a fire truck."])
    assert_near(ours.encode_classnames(["fire_truck"]), theirs.encode_text(prompts, normalize=True))
    assert torch.equal(ours.logit_scale, theirs.logit_scale)


@pytest.mark.parametrize("resolution", [96, 70])
@torch.no_grad()
def test_timm_tower_is_timms(resolution, timm_pair):
    theirs, ours = timm_pair
    images = images_of_contrasts(resolution)
    features = ours.image(images)
    assert_near(features, theirs.forward_head(theirs.forward_features(images), pre_logits=True))
    assert features.shape == (3, ours.image.dim)
    assert features.std(dim=0).mean() > 0.01
    assert ours.text is None and ours.image_projection is None


@pytest.mark.parametrize("name", RESNETS)
def test_published_sizes(name):
    geometry = BACKBONES[name].geometry
    with torch.device("meta"):
        backbone = Backbone(geometry)
    tower = backbone.image
    assert tower.dim == geometry.dim == {"clip_rn50": 1024, "clip_rn101": 512}.get(name, 2048)
    assert tower.resolution == 224
    convolutions = sum(isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1) for m in tower.net.modules())
    stem = 3 if geometry.clip else 1
    # the name counts 3 layers a block, the stem as one, and the classifier
    assert int(name.rpartition("rn")[2]) == 3 * (convolutions - stem) + 2 == 3 * geometry.depth + 2
    assert [len(stage) for stage in tower.stages] == list(geometry.stages)
    if geometry.clip:
        assert (tower.net.head.num_heads, tower.net.head.feat_size) == (32, (7, 7))


def test_stages_are_the_four_in_order(tower):
    assert [len(stage) for stage in tower.stages] == list(STAGES)
    widths = [next(len(p) for p in stage.parameters() if p.shape[2:] == (3, 3)) for stage in tower.stages]
    assert widths == [8, 16, 32, 64]
    inside = {p for stage in tower.stages for p in stage.parameters()}
    assert next(tower.net.parameters()) not in inside


@torch.no_grad()
def test_after_is_a_slot_on_the_pooled_feature(tower):
    """A method stands there outside autocast, and casts for itself."""
    images = normal_images(2, RESNET_RESOLUTION)
    plain = tower(images)
    seen = []

    class Double(nn.Module):
        def forward(self, x):
            seen.append((x.shape, torch.is_autocast_enabled("cpu")))
            return 2 * x

    tower.after = Double()
    try:
        assert torch.equal(tower(images), 2 * plain)
    finally:
        tower.after = nn.Identity()
    assert seen == [((2, tower.dim), False)]


# ---- precision ----


@pytest.mark.parametrize("what", TRAINED)
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.bfloat16, 0.03), (torch.float16, 0.004), (torch.float32, 1e-6)], ids=str
)
def test_trains_in_every_precision(what, dtype, tolerance, tower):
    images = normal_images(4, RESNET_RESOLUTION)
    target = torch.randn(4, tower.dim, generator=torch.Generator().manual_seed(1))
    trained = let_train(tower, what)

    def step():
        features = tower(images)
        if trained:
            (features.float() * target).sum().backward()
        gradients = [p.grad for p in trained]
        tower.zero_grad()
        return features.detach(), gradients

    exact, exact_gradients = step()
    frozen = FrozenWeights(tower)
    frozen.cast(dtype)
    features, gradients = step()
    stem = next(tower.net.parameters()).dtype
    frozen.cast(torch.float32)

    assert stem == features.dtype == dtype
    distance = ((features.float() - exact).norm(dim=1) / exact.norm(dim=1)).max()
    assert distance < tolerance
    assert bool(distance > 1e-5) == (dtype != torch.float32)  # it was rounded
    for found, expected in zip(gradients, exact_gradients, strict=True):
        assert found.dtype == torch.float32
        assert nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.9
    assert torch.equal(step()[0], exact)  # the originals came back


@torch.inference_mode()
def test_trained_weights_are_tested_in_half_precision(tower):
    images = normal_images(2, RESNET_RESOLUTION)
    let_train(tower, "everything")
    exact = tower(images)
    frozen = FrozenWeights(tower)
    frozen.cast(torch.bfloat16)
    first, second = tower(images), tower(images)
    frozen.cast(torch.float32)
    assert torch.equal(first, second)
    assert 1e-5 < (first.float() - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_batch_norms_stay_in_float32(dtype, tower):
    frozen = FrozenWeights(tower)
    frozen.cast(dtype)
    norms = {p for m in tower.modules() if isinstance(m, _BatchNorm) for p in m.parameters()}
    assert len(norms) == 2 * sum(isinstance(m, nn.BatchNorm2d) for m in tower.modules())
    try:
        for parameter in tower.parameters():
            assert parameter.dtype == (torch.float32 if parameter in norms else dtype)
        for name, statistic in tower.named_buffers():
            assert statistic.dtype == (torch.int64 if name.endswith("num_batches_tracked") else torch.float32)
    finally:
        frozen.cast(torch.float32)


# ---- statistics ----


def test_training_keeps_the_statistics(tower):
    trained = let_train(tower, "everything")
    before = {name: value.clone() for name, value in tower.named_buffers()}
    originals = [p.detach().clone() for p in trained]
    assert before
    images = normal_images(4, RESNET_RESOLUTION)
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    model = nn.Sequential(tower)
    try:
        for _ in range(2):
            model.train()
            in_training = model(images)
            model.eval()
            assert torch.equal(model(images), in_training)
            in_training.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert all(torch.equal(value, before[name]) for name, value in tower.named_buffers())
        assert not any(torch.equal(p, original) for p, original in zip(trained, originals, strict=True))
    finally:
        for parameter, original in zip(trained, originals, strict=True):
            parameter.data.copy_(original)


def test_net_is_never_in_training_mode():
    with torch.device("meta"):
        tower = Backbone(BACKBONES["in1k_rn50"].geometry).image
    for model in (tower, tower.train(), nn.Sequential(tower).train()):
        assert model.training
        assert not any(module.training for module in tower.net.modules())
    assert not tower.eval().training
