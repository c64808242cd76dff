"""Heads against their formulas, and their initialisations."""

import copy
import warnings

import helpers
import pytest
import torch
from cases import numbered
from helpers import CLIP_RESOLUTION, refused
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import normalize as normalise
from torchvision.transforms.v2.functional import normalize, to_dtype

from models import Model, build_backbone, build_model
from models.heads import HEAD_INITS, HEADS, logistic
from utils.errors import ModelError

NAMES = ["cat", "fire_truck", "dog"]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(a):
    length = dot(a, a) ** 0.5
    return [x / length for x in a]


def layer_norm(a):
    """(a - mean) / deviation, with 1e-12 added to the variance."""
    centred = [x - sum(a) / len(a) for x in a]
    variance = dot(centred, centred) / len(a)
    return [x / (variance + 1e-12) ** 0.5 for x in centred]


# the logit of one feature for one class, from the head's parameters and scale
FORMULAS = {
    "LinearClassifier": lambda f, c, p, scale: dot(p["weight"][c], f) + p["bias"][c],
    "CosineClassifier": lambda f, c, p, scale: scale * dot(unit(f), unit(p["weight"][c])),
    "L2NormClassifier": lambda f, c, p, scale: dot(f, unit(p["weight"][c])),
    "LayerNormClassifier": lambda f, c, p, scale: dot(layer_norm(f), unit(p["weight"][c])),
}


@pytest.mark.parametrize("case", numbered(20, sample=8))
@pytest.mark.parametrize("name", HEADS)
def test_head_is_its_formula_in_value_and_gradient(name, case, device):
    generator = torch.Generator().manual_seed(case)
    batch, classes, dim = (int(torch.randint(3, 8, (), generator=generator)) for _ in range(3))
    scale = 1 + 30 * float(torch.rand((), generator=generator))
    head = HEADS[name](classes, dim, scale=scale).double()
    for parameter in head.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    features = torch.randn(batch, dim, generator=generator, dtype=torch.float64).to(device).requires_grad_()
    direction = torch.randn(batch, classes, generator=generator, dtype=torch.float64)

    logits = head.to(device)(features)
    gradients = torch.autograd.grad((logits * direction.to(device)).sum(), [features, *head.parameters()])

    f = features.detach().cpu().clone().requires_grad_()
    p = {key: value.detach().cpu().clone().requires_grad_() for key, value in head.named_parameters()}
    rows = [torch.stack([FORMULAS[name](row, c, p, scale) for c in range(classes)]) for row in f]
    wanted = torch.autograd.grad((torch.stack(rows) * direction).sum(), [f, *p.values()])

    assert torch.allclose(logits.cpu(), torch.stack(rows), rtol=1e-10, atol=1e-10)
    for found, right in zip(gradients, wanted, strict=True):
        assert torch.allclose(found.cpu(), right, rtol=1e-9, atol=1e-10)
        assert right.any()


@pytest.mark.parametrize("name", HEADS)
def test_random_rows_have_unit_length_and_every_direction(name):
    torch.manual_seed(0)
    head = HEADS[name](500, 64, scale=25.0)
    assert torch.allclose(head.weight.norm(dim=1), torch.ones(500))
    assert (head.weight > 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    largest = (head.weight.abs().amax(dim=1) / head.weight.square().mean(dim=1).sqrt()).max()
    assert largest < 2.2  # uniform rows: at most about sqrt 3; normal rows would exceed 3
    assert not dict(head.named_parameters()).get("bias", torch.zeros(1)).any()
    assert {parameter.dtype for parameter in head.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in head.parameters())


def test_random_rows_of_lift():
    """The linear head's are normal with deviation sqrt(2 / D), its bias zero; the other heads start as LIFT+'s."""
    torch.manual_seed(0)
    head = HEADS["LinearClassifier"](500, 64, scale=25.0, variant="lift")
    deviation = (2 / 64) ** 0.5
    assert head.weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert abs(head.weight.mean()) < 0.01 * deviation
    assert (head.weight.abs() < deviation).float().mean().item() == pytest.approx(0.683, abs=0.01)
    assert head.weight.abs().max() > 3 * deviation
    assert not head.bias.any()
    for name in HEADS.keys() - {"LinearClassifier"}:
        torch.manual_seed(0)
        one = HEADS[name](50, 64, scale=25.0)
        torch.manual_seed(0)
        assert torch.equal(HEADS[name](50, 64, scale=25.0, variant="lift").weight, one.weight)


@pytest.mark.parametrize("variant", ["lift+", "lift"])
def test_a_models_variant_reaches_its_head_and_its_towers(variant, clip_pair):
    """Six classes and three blocks: two prompt tokens or ten; the linear head as above. The text tower likewise."""
    backbone = copy.deepcopy(clip_pair[1])  # methods stay in it
    names = [str(i) for i in range(6)]
    model = Model.create(backbone, names, "LinearClassifier", {"pt": {}}, head_init=None, variant=variant)
    assert len(model.tower.blocks[0].prompt.tokens) == {"lift+": 2, "lift": 10}[variant]
    unit = torch.allclose(model.head.weight.norm(dim=1), torch.ones(6))
    assert unit == (variant == "lift+")
    model = Model.create(backbone, NAMES, None, text_methods={"pt": {}}, variant=variant)
    assert len(model.head.texts.tower.blocks[0].prompt.tokens) == {"lift+": 1, "lift": 10}[variant]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_head_of_a_constant_feature_is_finite(name, value, device):
    """Without length, or without variance."""
    features = torch.full((1, 4), value, requires_grad=True, device=device)
    head = HEADS[name](3, 4, scale=25.0).to(device)
    logits = head(features)
    if value == 0 or name == "LayerNormClassifier":
        assert logits.tolist() == [[0, 0, 0]]
    logits.sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in (features, *head.parameters()))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_features_from_half_precision(name, size, device):
    """The caller converts them to float32; beyond their own rounding nothing is lost, whatever their size."""
    features = (size * torch.randn(8, 16, generator=torch.Generator().manual_seed(0))).half().to(device)
    head = HEADS[name](5, 16, scale=25.0).to(device)
    with torch.no_grad():
        found = head(features.float())
        expected = head.double()(features.double())
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


# ---- shared by the tests ----


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


def test_images_are_scaled_and_normalised_as_by_torchvision(device):
    """uint8 to [0, 1], then (x - mean) / std by channel."""
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    expected = normalize(to_dtype(images, torch.float32, scale=True), mean, std)
    model = Model(nn.Identity(), nn.Identity(), mean, std).to(device)
    assert torch.allclose(model(images.to(device)).cpu(), expected, rtol=1e-5, atol=1e-6)


def create(backbone, classnames=NAMES, **options):
    """A model with a bare image tower, so that the backbone can be used again."""
    return Model.create(backbone, classnames, **options)


def no_features():
    raise AssertionError("this head does not start from features")


@pytest.mark.parametrize(
    "options, kind",
    [
        ({"head": "Cosine"}, "unknown_head"),
        ({"head_init": "text"}, "unknown_head_init"),
        ({"head_init": "class_mean"}, "no_features"),
        ({"methods": {"coop": {}}}, "unread_texts"),
        ({"text_methods": {"lora": {}}}, "unread_texts"),
        ({"head": None, "prompt": "classname", "text_methods": {"lora": {}}}, "prompt_of_trained_texts"),
        ({"head": None, "prompt": "classname", "methods": {"coop": {}}}, "prompt_of_trained_texts"),
        ({"prompt": "descriptor"}, "no_prompt_file"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, kind, clip_pair):
    with refused(ModelError, kind=kind):
        create(clip_pair[1], **options)


def test_a_backbone_without_normalisation_is_refused(clip_pair):
    backbone = copy.copy(clip_pair[1])
    backbone.mean = None
    with refused(ModelError, kind="no_normalisation"):
        create(backbone)


@pytest.mark.parametrize(
    "keys, options",
    [
        (
            ("v.adaptformer_layers", 1, "v.lora", True, "v.lora_dim", 3, "seed", 5, "classifier_scale", 7),
            {"methods": {"adaptformer": {"layers": 1}, "lora": {"dim": 3}}, "seed": 5, "head_scale": 7.0},
        ),
        (
            ("l.lora", True, "coop", True, "clip_adapter", True, "classifier", None, "v.adaptformer_dim", 2),
            {
                "head": None,
                "methods": {"adaptformer": {"dim": 2}, "coop": {}, "clip_adapter": {}},
                "text_methods": {"lora": {"dim": 4}},
            },
        ),
    ],
)
def test_a_configuration_and_plain_arguments_make_the_same_model(keys, options, config):
    """Bit for bit: names, tensors, and which of them are trainable."""
    cfg = config(*keys)
    first = build_model(cfg, build_backbone(cfg)[0], NAMES)
    second = Model.create(build_backbone(cfg)[0], NAMES, **options)
    for (name, value), (other_name, other) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert name == other_name
        assert torch.equal(value, other)
        assert value.requires_grad == other.requires_grad
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(first(images), second(images))


# ---- initialisation ----


class StandIn:
    """The parts of a backbone used by initialisations; projection None as in a CLIP ResNet, bias None as in CLIP."""

    def __init__(self, text_features, projection, bias):
        self.text_features = text_features
        self.image_projection = None if projection is None else nn.Parameter(projection)
        self.image_projection_bias = None if bias is None else nn.Parameter(bias)

    def encode_classnames(self, classnames):
        assert len(classnames) == len(self.text_features)
        return self.text_features


def random_start(case):
    """A stand-in for a backbone, long-tailed features and their labels (every class has some), in shuffled order."""
    generator = torch.Generator().manual_seed(case)
    classes, dim, joint = (2, 3, 5)[case % 3], *(int(torch.randint(2, 9, (), generator=generator)) for _ in range(2))
    labels = torch.cat([torch.full((20 // (c + 1),), c) for c in range(classes)])
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centres = torch.randn(classes, dim, generator=generator)
    features = 5 * (centres[labels] + torch.randn(len(labels), dim, generator=generator))
    projection = None if case % 4 == 3 else torch.randn(dim, joint, generator=generator)
    text_features = torch.randn(classes, joint, generator=generator)
    text_features = text_features / text_features.square().sum(1, keepdim=True).sqrt()
    bias = torch.randn(joint, generator=generator) if case % 4 == 1 else None
    return StandIn(text_features, projection, bias), features, labels


def semantic_formula(backbone, vectors, labels):
    """normalise(t P^T), or t."""
    t = backbone.text_features.tolist()
    if backbone.image_projection is None:
        return t
    return [unit([dot(row, text) for row in backbone.image_projection.tolist()]) for text in t]


def class_mean_formula(backbone, vectors, labels):
    """The sum over the class, divided by its length."""
    members = [[v for v, y in zip(vectors, labels, strict=True) if y == c] for c in range(max(labels) + 1)]
    return [unit([sum(column) for column in zip(*rows, strict=True)]) for rows in members]


def probe(vectors, labels):
    """scikit-learn's fit, in float32 as the features are: rows [C, D], or [1, D] of two classes."""
    vectors = torch.tensor(vectors, dtype=torch.float32).numpy()
    return LogisticRegression(class_weight="balanced", max_iter=100).fit(vectors, labels).coef_.tolist()


def linear_probing_formula(backbone, vectors, labels):
    """scikit-learn's rows; for two classes it returns that of class 1."""
    rows = probe(vectors, labels)
    if max(labels) == 1:
        rows = [[-x for x in rows[0]], rows[0]]
    return [unit(row) for row in rows]


INIT_FORMULAS = {
    "semantic": semantic_formula,
    "class_mean": class_mean_formula,
    "linear_probing": linear_probing_formula,
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", numbered(24, sample=12))  # all combinations of classes and projections
@pytest.mark.parametrize("name", HEAD_INITS)
def test_first_weights_are_their_formula(name, case, device):
    backbone, vectors, labels = random_start(case)
    names = ["class"] * (int(labels.max()) + 1)
    expected = torch.tensor(INIT_FORMULAS[name](backbone, vectors.tolist(), labels.tolist()))
    for part in ("text_features", "image_projection", "image_projection_bias"):
        value = getattr(backbone, part)
        setattr(backbone, part, None if value is None else value.detach().to(device).requires_grad_())
    on_device = vectors.to(device).requires_grad_(), labels.to(device)
    found, bias = HEAD_INITS[name](backbone, names, lambda: on_device)
    assert found.device.type == device.type
    found = found.cpu()
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (bias is not None) == (name == "semantic" and backbone.image_projection_bias is not None)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert torch.allclose(found.norm(dim=1), torch.ones(len(names)))


def test_semantic_first_weights_are_open_clips_text_features_carried_back(clip_pair, text_features):
    """normalise(t P^T), t and P open_clip's."""
    projection = clip_pair[0].visual.proj.tolist()
    expected = [unit([dot(row, t) for row in projection]) for t in text_features.tolist()]
    found = HEAD_INITS["semantic"](clip_pair[1], NAMES, no_features).weight
    assert torch.allclose(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_probe_points_at_its_classes(classes):
    """Clusters on the axes: each row has its largest entry, a positive one, on the axis of its class."""
    labels = torch.arange(30) % classes
    vectors = torch.eye(classes)[labels] + 0.01 * torch.randn(30, classes, generator=torch.Generator().manual_seed(0))
    found = HEAD_INITS["linear_probing"](None, NAMES[:classes], lambda: (vectors, labels)).weight
    assert found.argmax(dim=1).tolist() == list(range(classes))
    assert (found.diagonal() > 0.5).all()


def test_a_probe_stops_after_100_iterations_and_says_nothing():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(60, 20, generator=generator) * torch.logspace(-2, 3, 20)
    labels = torch.arange(60) % 3
    with pytest.warns(ConvergenceWarning):
        expected = linear_probing_formula(None, vectors.tolist(), labels.tolist())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = HEAD_INITS["linear_probing"](None, NAMES, lambda: (vectors, labels)).weight
    assert torch.allclose(found, torch.tensor(expected), rtol=1e-3, atol=1e-4)


def probe_case(case, classes=None):
    """Random features float64 [n, D] that overlap a little, and labels of 2 to 10 classes, each with some images."""
    generator = torch.Generator().manual_seed(case)
    classes = classes or 2 + case % 9
    count, dim = (int(torch.randint(*span, (), generator=generator)) for span in ((60, 300), (3, 40)))
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (count,), generator=generator) ** 2 // classes])
    centres = 2 * torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    return centres[labels] + torch.randn(len(labels), dim, generator=generator, dtype=torch.float64), labels, classes


def sklearn_probe(vectors, labels, **options):
    probe = LogisticRegression(class_weight="balanced", **options).fit(vectors.numpy(), labels.numpy())
    return torch.from_numpy(probe.coef_), torch.from_numpy(probe.intercept_)


def probe_loss(weight, bias, vectors, labels):
    """scikit-learn's objective in float64, image by image: sum of s_y times log loss, plus |W|^2 / 2."""
    counts, logits = labels.bincount().double(), vectors.double() @ weight.double().T + bias.double()
    logits = torch.cat([torch.zeros(len(logits), 1), logits], dim=1) if len(weight) == 1 else logits
    losses = [
        len(labels) / (len(counts) * counts[y]) * (row.logsumexp(0) - row[y])
        for row, y in zip(logits, labels, strict=True)
    ]
    return sum(losses) + weight.double().square().sum() / 2  # a tensor, to be differentiated


@pytest.mark.parametrize("case", numbered(20, sample=10))
def test_the_device_finds_the_optimum_of_scikit_learn(case, monkeypatch, device):
    """Both to the end; in several parts; two classes (cases 0, 9, 18) have one row."""
    vectors, labels, classes = probe_case(case)
    monkeypatch.setattr(logistic, "ITERATIONS", 5000)
    monkeypatch.setattr(logistic, "LOGITS", 50 * classes)
    expected, bias = sklearn_probe(vectors, labels, max_iter=5000, tol=1e-9)
    found = logistic.fit(vectors.to(device), labels.to(device), classes, tolerance=1e-9).cpu()
    assert found.shape == expected.shape == (classes if classes > 2 else 1, vectors.shape[1])
    assert (normalise(found) - normalise(expected)).abs().max() < 1e-4
    losses = [probe_loss(weight, bias, vectors, labels) for weight in (found, expected)]
    assert losses[0] <= losses[1] * (1 + 1e-6)


@pytest.mark.parametrize("case", range(9))
def test_a_probe_in_float32_is_that_in_float64(case):
    """With the usual tolerance. Far below it float32 cannot distinguish losses, neither can scikit-learn's."""
    vectors, labels, classes = probe_case(case)
    single, double = (logistic.fit(part, labels, classes) for part in (vectors.float(), vectors))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert (normalise(single) - normalise(double)).abs().max() < 1e-3


@pytest.mark.parametrize("case", range(9))
def test_the_devices_objective_and_gradient_are_their_formula(case, device):
    vectors, labels, classes = probe_case(case)
    objective = logistic.Objective(vectors.to(device), labels.to(device), classes)
    generator = torch.Generator().manual_seed(case)
    matrix = torch.randn(objective.rows, vectors.shape[1] + 1, generator=generator, dtype=torch.float64)
    loss, gradient = objective(matrix.flatten().numpy())
    matrix.requires_grad_()
    expected = probe_loss(matrix[:, :-1], matrix[:, -1], vectors, labels) / len(labels)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(torch.from_numpy(gradient), matrix.grad.flatten(), rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The number of unique classes")
def test_the_device_stops_where_scikit_learn_stops():
    """For 300 classes after a few steps, well before the optimum: the stopping rule is part of the definition."""
    vectors, labels, _ = probe_case(1, 300)
    expected, _ = sklearn_probe(vectors, labels)
    optimum, _ = sklearn_probe(vectors, labels, max_iter=5000, tol=1e-9)
    found = logistic.fit(vectors, labels, 300)
    assert (normalise(found) - normalise(expected)).abs().max() < 1e-4
    assert (normalise(optimum) - normalise(expected)).abs().max() > 0.002


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_device_is_as_far_as_scikit_learn_after_100_iterations():
    """For ill-scaled features, which rounding affects: the same images in another order differ as much."""
    vectors, labels, _ = probe_case(1)
    vectors *= torch.logspace(-2, 3, vectors.shape[1])
    (first, bias), (other, _) = sklearn_probe(vectors, labels), sklearn_probe(vectors.flip(0), labels.flip(0))
    weights = (first, other, logistic.fit(vectors, labels, 3))
    losses = [float(probe_loss(weight, bias, vectors, labels)) for weight in weights]
    assert losses == pytest.approx([losses[0]] * 3, rel=0.02)


def test_only_a_probe_of_minutes_goes_to_the_device(monkeypatch):
    """The switch, at a minute by the measured rate; on both sides of it the same rows, also for two classes."""
    assert logistic.sklearn_seconds(342, 128, 10) < 0.01  # the digits
    assert logistic.sklearn_seconds(68_000, 768, 1000) > 60  # ImageNet-LT
    fits, fit = [], logistic.fit
    monkeypatch.setattr(logistic, "fit", lambda *args: fits.append(args) or fit(*args))
    for case in (0, 1):
        vectors, labels, classes = probe_case(case)
        features, names = (vectors.float(), labels), [f"class {c}" for c in range(classes)]
        work = logistic.ITERATIONS * vectors.numel() * classes
        rows = []
        for seconds in (59, 61):
            monkeypatch.setattr(logistic, "SKLEARN_RATE", work / seconds)
            rows.append(HEAD_INITS["linear_probing"](None, names, lambda f=features: f).weight)
            assert len(fits) == (seconds > 60)
        fits.clear()
        assert rows[0].shape == rows[1].shape == (classes, vectors.shape[1])
        assert rows[0].dtype == rows[1].dtype == torch.float32
        assert (rows[0] - rows[1]).abs().max() < 1e-3  # float32


def test_features_of_inference_mode_will_do(clip_pair):
    """As computed by the trainer; the head is still trainable."""
    with torch.inference_mode():
        features = SOME_FEATURES.clone(), SOME_LABELS.clone()
    for init in HEAD_INITS:
        model = create(clip_pair[1], head_init=init, features=lambda: features)
        model.head(SOME_FEATURES).sum().backward()
        assert model.head.weight.grad.isfinite().all()


SOME_FEATURES = torch.randn(11, 128, generator=torch.Generator().manual_seed(3))
SOME_LABELS = torch.tensor([2, 0, 1, 2, 2, 0, 2, 1, 0, 2, 2])


@pytest.mark.parametrize("init", HEAD_INITS)
@pytest.mark.parametrize("head", HEADS)
def test_model_starts_from_them_and_trains_them(head, init, clip_pair):
    features = SOME_FEATURES, SOME_LABELS
    expected = HEAD_INITS[init](clip_pair[1], NAMES, lambda: features).weight
    model = create(clip_pair[1], head=head, head_init=init, features=lambda: features)
    assert torch.equal(model.head.weight, expected)
    assert all(parameter.requires_grad for parameter in model.head.parameters())


def test_model_without_first_weights_is_random_by_its_seed(clip_pair):
    def weight(seed):
        return create(clip_pair[1], head_init=None, seed=seed).head.weight

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))


@pytest.mark.parametrize("init", sorted(set(HEAD_INITS) - {"semantic"}))
@pytest.mark.parametrize("missing", range(3))  # also the last one, whose number is not a label
def test_a_class_without_images_is_refused(init, missing):
    labels = SOME_LABELS.masked_fill(SOME_LABELS.eq(missing), (missing + 1) % 3)
    with refused(ModelError, kind="class_without_images", key="classifier_init"):
        HEAD_INITS[init](None, NAMES, lambda: (SOME_FEATURES, labels))


def test_a_probe_of_a_single_class_is_refused():
    with refused(ModelError, kind="single_class", key="classifier_init"):
        HEAD_INITS["linear_probing"](None, NAMES[:1], lambda: (SOME_FEATURES, torch.zeros(11, dtype=torch.long)))


def test_texts_without_a_text_tower_are_refused(vit):
    with refused(ModelError, kind="no_text_tower"):
        HEAD_INITS["semantic"](vit, NAMES, no_features)
    with refused(ModelError, kind="no_text_tower"):
        create(vit, head=None)


@pytest.mark.parametrize("init", HEAD_INITS)
def test_two_classes_make_a_head_of_two(init, clip_pair):
    features = SOME_FEATURES, SOME_LABELS % 2
    model = create(clip_pair[1], NAMES[:2], head_init=init, features=lambda: features)
    assert model(torch.zeros(1, 3, CLIP_RESOLUTION, CLIP_RESOLUTION, dtype=torch.uint8)).shape == (1, 2)
