"""Heads against their formulas, and where their first weights come from."""

from types import SimpleNamespace

import helpers
import pytest
import torch
from helpers import CLIP_RESOLUTION, normal_images
from torch import nn
from torchvision.transforms.v2.functional import normalize, to_dtype

from models import Classifier, build_model
from models.backbone import ModelError
from models.head_init import HEAD_INITS
from models.heads import HEADS, TextSimilarity

NAMES = ["cat", "fire_truck", "dog"]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(a):
    length = dot(a, a) ** 0.5
    return [x / length for x in a]


# the logit of one feature for one class, from the head's parameters and scale
FORMULAS = {
    "LinearClassifier": lambda f, c, p, scale: dot(p["weight"][c], f) + p["bias"][c],
    "CosineClassifier": lambda f, c, p, scale: scale * dot(unit(f), unit(p["weight"][c])),
}


@pytest.mark.parametrize("case", range(20))
@pytest.mark.parametrize("name", HEADS)
def test_head_is_its_formula_in_value_and_gradient(name, case):
    generator = torch.Generator().manual_seed(case)
    batch, classes, dim = (int(torch.randint(2, 7, (), generator=generator)) for _ in range(3))
    scale = 1 + 30 * float(torch.rand((), generator=generator))
    head = HEADS[name](classes, dim, scale=scale).double()
    for parameter in head.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    features = torch.randn(batch, dim, generator=generator, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(batch, classes, generator=generator, dtype=torch.float64)

    logits = head(features)
    gradients = torch.autograd.grad((logits * direction).sum(), [features, *head.parameters()])

    f = features.detach().clone().requires_grad_()
    p = {key: value.detach().clone().requires_grad_() for key, value in head.named_parameters()}
    rows = [torch.stack([FORMULAS[name](row, c, p, scale) for c in range(classes)]) for row in f]
    wanted = torch.autograd.grad((torch.stack(rows) * direction).sum(), [f, *p.values()])

    assert torch.allclose(logits, torch.stack(rows), rtol=1e-10, atol=1e-10)
    for found, right in zip(gradients, wanted, strict=True):
        assert torch.allclose(found, right, rtol=1e-9, atol=1e-10)
        assert right.any()


@pytest.mark.parametrize("name", HEADS)
def test_random_rows_have_unit_length_and_every_direction(name):
    torch.manual_seed(0)
    head = HEADS[name](500, 64, scale=25.0)
    assert torch.allclose(head.weight.norm(dim=1), torch.ones(500))
    assert (head.weight > 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    largest = (head.weight.abs().amax(dim=1) / head.weight.square().mean(dim=1).sqrt()).max()
    assert largest < 2.2  # uniform rows: at most sqrt 3, but for chance; normal rows would reach beyond 3
    assert not dict(head.named_parameters()).get("bias", torch.zeros(1)).any()
    assert {parameter.dtype for parameter in head.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in head.parameters())


# ---- text similarity ----


@pytest.fixture(scope="module")
def clip_pair(tmp_path_factory):
    return helpers.clip_pair(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return helpers.vit_pair(tmp_path_factory.mktemp("weights"))[1]


@pytest.fixture(scope="module")
def text_features(clip_pair):
    """open_clip's features of the prompts of NAMES, unit length [3, joint]."""
    import open_clip

    prompts = ["a photo of a cat.", "a photo of a fire truck.", "a photo of a dog."]
    with torch.no_grad():
        return clip_pair[0].encode_text(open_clip.get_tokenizer("ViT-B-16")(prompts), normalize=True)


@torch.no_grad()
def test_text_similarity_is_open_clips_logits(clip_pair, text_features):
    theirs, ours = clip_pair
    head = TextSimilarity(ours.image_projection, ours.encode_classnames(NAMES), ours.logit_scale)
    images = normal_images(5, CLIP_RESOLUTION)
    expected = theirs.logit_scale.exp() * theirs.encode_image(images, normalize=True) @ text_features.T
    assert torch.allclose(head(ours.image(images)), expected, rtol=1e-4, atol=1e-4)
    assert not list(head.parameters())


def run_cfg(**changed):
    """What build_model reads of a configuration."""
    cfg = {
        "seed": 0,
        "classifier": "CosineClassifier",
        "classifier_scale": 25.0,
        "classifier_init": "semantic",
        "v": {"adaptformer": True, "adaptformer_dim": 2},
        "mean": (0.1, 0.2, 0.3),
        "std": (0.5, 0.6, 0.7),
    }
    return SimpleNamespace(**(cfg | changed))


def test_images_are_scaled_and_normalised_as_by_torchvision():
    """uint8 to [0, 1], then (x - mean) / std by channel."""
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    expected = normalize(to_dtype(images, torch.float32, scale=True), mean, std)
    model = Classifier(nn.Identity(), nn.Identity(), mean, std)
    assert torch.allclose(model(images), expected, rtol=1e-5, atol=1e-6)


def no_features():
    raise AssertionError("this head does not start from features")


@torch.no_grad()
def test_zero_shot_model_is_open_clip_on_normalised_images(clip_pair, text_features):
    theirs, ours = clip_pair
    model = build_model(run_cfg(classifier=None, v={}), ours, NAMES, no_features)
    images = torch.randint(0, 256, (3, 3, CLIP_RESOLUTION, CLIP_RESOLUTION), dtype=torch.uint8)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    features = theirs.encode_image((images / 255 - mean) / std, normalize=True)
    assert torch.allclose(model(images), theirs.logit_scale.exp() * features @ text_features.T, rtol=1e-4, atol=1e-4)


# ---- first weights ----


def semantic_formula(clip_pair, text_features):
    """normalise(t P^T), t the unit text feature, P open_clip's image projection."""
    rows = [[dot(row, t) for row in clip_pair[0].visual.proj.tolist()] for t in text_features.tolist()]
    return torch.tensor([unit(row) for row in rows])


SOME_FEATURES = torch.randn(11, 128, generator=torch.Generator().manual_seed(3))
SOME_LABELS = torch.tensor([2, 0, 1, 2, 2, 0, 2, 1, 0, 2, 2])


def class_mean_formula(clip_pair, text_features):
    """The sum over the class, divided by its length."""
    sums = [[0.0] * 128 for _ in NAMES]
    for vector, label in zip(SOME_FEATURES.tolist(), SOME_LABELS.tolist(), strict=True):
        sums[label] = [a + b for a, b in zip(sums[label], vector, strict=True)]
    return torch.tensor([unit(row) for row in sums])


INIT_FORMULAS = {"semantic": semantic_formula, "class_mean": class_mean_formula}


@pytest.mark.parametrize("name", HEAD_INITS)
def test_first_weights_are_their_formula(name, clip_pair, text_features):
    found = HEAD_INITS[name](clip_pair[1], NAMES, lambda: (SOME_FEATURES, SOME_LABELS))
    assert torch.allclose(found, INIT_FORMULAS[name](clip_pair, text_features), rtol=1e-4, atol=1e-5)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert torch.allclose(found.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("init", HEAD_INITS)
@pytest.mark.parametrize("head", HEADS)
def test_model_starts_from_them_and_trains_them(head, init, clip_pair):
    features = SOME_FEATURES, SOME_LABELS
    expected = HEAD_INITS[init](clip_pair[1], NAMES, lambda: features)
    model = build_model(run_cfg(classifier=head, classifier_init=init), clip_pair[1], NAMES, lambda: features)
    assert torch.equal(model.head.weight, expected)
    assert all(parameter.requires_grad for parameter in model.head.parameters())


def test_model_without_first_weights_is_random_by_its_seed(clip_pair):
    def weight(seed):
        cfg = run_cfg(seed=seed, classifier_init=None)
        return build_model(cfg, clip_pair[1], NAMES, no_features).head.weight

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))


def test_class_mean_of_a_class_without_images_is_an_error_that_names_it(clip_pair):
    features = SOME_FEATURES, SOME_LABELS.masked_fill(SOME_LABELS == 1, 0)
    with pytest.raises(ModelError, match="'fire_truck'.*semantic or None"):
        HEAD_INITS["class_mean"](clip_pair[1], NAMES, lambda: features)


def test_text_without_a_text_tower_is_an_error_that_says_what_to_do(vit):
    with pytest.raises(ModelError, match="no text tower.*class_mean"):
        HEAD_INITS["semantic"](vit, NAMES, no_features)
    with pytest.raises(ModelError, match="no text tower"):
        build_model(run_cfg(classifier=None), vit, NAMES, no_features)


def test_two_classes_make_a_head_of_two(clip_pair):
    model = build_model(run_cfg(), clip_pair[1], NAMES[:2], no_features)
    assert model(torch.zeros(1, 3, CLIP_RESOLUTION, CLIP_RESOLUTION, dtype=torch.uint8)).shape == (1, 2)


def test_cosine_head_of_a_zero_feature_is_finite():
    features = torch.zeros(1, 4, requires_grad=True)
    logits = HEADS["CosineClassifier"](3, 4, scale=25.0)(features)
    assert logits.tolist() == [[0, 0, 0]]
    logits.sum().backward()
    assert features.grad.isfinite().all()
