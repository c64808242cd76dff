"""Losses against formulas written sample by sample, and a step in micro-batches against a whole step."""

import inspect
import math
from types import SimpleNamespace

import pytest
import torch
from cases import numbered
from oracles import LOSS_FORMULAS, numeric_gradient

from models.losses import LOSSES, build_loss
from utils.config import load_config, schema
from utils.config.schema import KEYS, loss_key

COUPLE_SAMPLES = [name for name, row in schema.LOSSES.items() if row.couples_samples]
SEPARATE = [name for name in LOSSES if name not in COUPLE_SAMPLES]
# by loss, the keyword argument of each key
KEYWORDS = {
    name: {loss_key(name, option): {"lambda": "lambda_"}.get(option, option) for option in row.options}
    for name, row in schema.LOSSES.items()
}
# every option at its default, and each at another value; the second value is an edge
OTHER = {
    "focal_gamma": (0.5, 0.0),
    "ldam_margin": (0.8, 0.0),
    "cb_beta": (0.9, 0.0),
    "la_tau": (2.5, 0.0),
    "lade_alpha": (0.7, 0.0),
    "lade_lambda": (0.3, 0.0),
}
OPTIONS = [(name, {}) for name in LOSSES]
OPTIONS += [(name, {key: value}) for name, keys in KEYWORDS.items() for key in keys for value in OTHER[key]]


def make(name, counts, scale=1.0, **options):
    """The loss, with options by their keys in the configuration."""
    return LOSSES[name](counts, scale=scale, **{KEYWORDS[name][key]: value for key, value in options.items()})


# ---- the loss of a step ----


def step_loss(loss, logits, labels, parts=1):
    """As in a training step: the sum of the samples' losses over micro-batches, divided by the step's whole weight."""
    weight = loss.total_weight(labels)
    size = -(-len(labels) // parts)
    return sum(loss(z, y).sum() / weight for z, y in zip(logits.split(size), labels.split(size), strict=True))


def random_case(case):
    """Logits of varied size, labels, counts of a long tail, and a scale. In every other case some classes are empty."""
    generator = torch.Generator().manual_seed(case)
    batch, classes = (int(torch.randint(2, 8, (), generator=generator)) for _ in range(2))
    logits = 10 * torch.rand((), generator=generator) * torch.randn(batch, classes, generator=generator)
    counts = (10 ** (4 * torch.rand(classes, generator=generator))).long()  # 1 to 10,000
    if case % 2:
        counts *= torch.rand(classes, generator=generator) < 0.7
        counts[case % classes] = 5
    present = counts.nonzero().squeeze(1)
    labels = present[torch.randint(len(present), (batch,), generator=generator)]
    return logits.double(), labels, counts, 1 + 30 * float(torch.rand((), generator=generator))


CASES = numbered(24, sample=8)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_loss_is_its_formula_in_value_and_gradient(name, options, case, device):
    logits, labels, counts, scale = random_case(case)
    logits, labels = logits.to(device).requires_grad_(), labels.to(device)
    loss = make(name, counts, scale, **options).to(device)
    value = step_loss(loss, logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)

    def formula(z):
        return LOSS_FORMULAS[name](z, labels.tolist(), counts.tolist(), scale, **options)

    assert loss(logits, labels).shape == labels.shape
    assert value.item() == pytest.approx(formula(logits.tolist()), rel=1e-6, abs=1e-9)
    assert torch.allclose(gradient.cpu(), numeric_gradient(formula, logits.tolist()), rtol=1e-5, atol=1e-6)


def test_the_cases_reach_what_is_special():
    """Classes without images, classes that are not in the batch, and several samples of one class."""
    cases = [random_case(case) for case in CASES]
    assert sum(not counts.all() for _, _, counts, _ in cases) >= 3
    assert sum(len(labels.unique()) < len(counts.nonzero()) for _, labels, counts, _ in cases) >= 3
    assert sum(len(labels.unique()) < len(labels) for _, labels, _, _ in cases) >= 3


@pytest.mark.parametrize("name", LOSSES)
def test_float32_is_good_enough(name, device):
    """The type in which training computes, on logits of a cosine head and a tail like that of ImageNet-LT."""
    generator = torch.Generator().manual_seed(0)
    counts = (1280 * 0.004 ** (torch.arange(100) / 99)).long()
    logits, labels = 25 * torch.rand(64, 100, generator=generator), torch.randint(100, (64,), generator=generator)
    loss, labels = make(name, counts, scale=25.0).to(device), labels.to(device)
    values = [step_loss(loss, logits.to(device, dtype), labels) for dtype in (torch.float32, torch.float64)]
    assert values[0].dtype == torch.float32
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-5)


def test_margins_and_weights_worked_out_by_hand():
    margins = make("LDAM", torch.tensor([10000, 1, 16]), scale=2.0).shifts
    assert margins.tolist() == pytest.approx([2 * 0.05, 2 * 0.5, 2 * 0.25])
    weights = make("GRW", torch.tensor([1, 2, 4])).weights
    assert weights.tolist() == pytest.approx([12 / 7, 6 / 7, 3 / 7])
    weights = make("CB", torch.tensor([1, 2])).weights  # 1 and 1 / (1 + beta)
    assert weights.tolist() == pytest.approx([2 * 1.9999 / 2.9999, 2 / 2.9999])


def test_lade_with_a_class_absent_from_the_batch():
    """All logits zero, so that the means are zero and every logsumexp is log B - log pi_c + log(1/C)."""
    logits = torch.zeros(3, 2, requires_grad=True)
    value = step_loss(make("LADE", torch.tensor([30, 10])), logits, torch.zeros(3, dtype=torch.long))
    regulariser = sum(p * (math.log(0.5 / p) + 0.1 * math.log(0.5 / p) ** 2) for p in (0.75, 0.25))
    assert value.item() == pytest.approx(-math.log(0.75) + 0.1 * regulariser)
    value.backward()
    absent = 0.25 / 3 + 0.1 * 0.25 * (1 + 0.2 * math.log(2)) / 3  # softmax, and the logsumexp alone
    assert logits.grad[:, 1].tolist() == pytest.approx([absent] * 3)


# ---- classes without training images, and extreme logits ----


@pytest.mark.parametrize("name", LOSSES)
def test_class_without_training_images_leaves_the_loss_finite(name, device):
    """Even that of a sample of this very class."""
    counts = torch.tensor([900, 0, 90, 10])
    for labels in (torch.arange(4), torch.ones(4, dtype=torch.long), torch.tensor([0, 0, 2, 3])):
        logits = torch.zeros(4, 4, requires_grad=True, device=device)
        value = step_loss(make(name, counts, scale=25.0).to(device), logits, labels.to(device))
        value.backward()
        assert value.isfinite()
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", ["LA", "BS"])
@pytest.mark.parametrize("counts", [[900, 0, 90, 10], [1, 0, 0, 1]])
@pytest.mark.parametrize("size", [1, 100])
def test_logit_adjustment_is_as_if_the_class_without_images_were_not_there(name, counts, size):
    logits = size * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    logits[:, 1] = 2 * size  # the class without images may have the largest logit
    kept = [c for c in range(4) if counts[c]]
    for label in kept:
        labels = torch.full((5,), label)
        found = make(name, torch.tensor(counts))(logits, labels)
        smaller = make(name, torch.tensor([counts[c] for c in kept]))
        expected = smaller(logits[:, kept], torch.full((5,), kept.index(label)))
        assert torch.allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["LDAM", "CB", "GRW"])
def test_margins_and_weights_are_as_if_the_class_without_images_were_not_there(name):
    (with_empty,) = make(name, torch.tensor([900, 0, 90, 10]), scale=25.0).buffers()
    (without,) = make(name, torch.tensor([900, 90, 10]), scale=25.0).buffers()
    assert torch.allclose(with_empty[[0, 2, 3]], without)
    assert with_empty[1] >= without.max()  # itself it counts as rare


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [1e4, 65504.0])  # the largest number of float16
def test_loss_of_large_logits_is_finite(name, size, device):
    for label in range(3):
        logits = torch.tensor([[size, -size, 0.0], [0.0, -size, size]], requires_grad=True, device=device)
        loss = make(name, torch.tensor([5, 3, 1]), scale=25.0).to(device)
        value = step_loss(loss, logits, torch.tensor([label, 0], device=device))
        value.backward()
        assert value.isfinite()
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_from_half_precision(name, dtype):
    """The caller converts them to float32; beyond their own rounding nothing is lost."""
    logits, labels, counts, scale = random_case(2)
    loss, half = make(name, counts, scale=scale), logits.to(dtype)
    found, expected = step_loss(loss, half.float(), labels), step_loss(loss, half.double(), labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


# ---- a step in micro-batches ----


@pytest.mark.parametrize("name", SEPARATE)
@pytest.mark.parametrize("size", [8, 7, 5, 1])  # the last step of an epoch is smaller
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_step_in_parts_equals_the_step_whole(name, parts, size):
    generator = torch.Generator().manual_seed(size)
    logits = torch.randn(size, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(6, (size,), generator=generator)
    loss = make(name, torch.tensor([500, 200, 80, 30, 10, 2]), scale=25.0)
    whole, in_parts = step_loss(loss, logits, labels), step_loss(loss, logits, labels, parts)
    assert in_parts.item() == pytest.approx(whole.item(), rel=1e-12)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (whole, in_parts)]
    assert torch.allclose(*gradients, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", COUPLE_SAMPLES)
@pytest.mark.parametrize("parts", [2, 4])
def test_step_in_parts_differs_where_samples_are_coupled(name, parts):
    """So the configuration does not allow it; a restriction that is not needed fails here."""
    logits = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    loss = make(name, torch.tensor([500, 200, 80, 30, 10, 2]), scale=25.0)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3, 5])
    assert abs(step_loss(loss, logits, labels) - step_loss(loss, logits, labels, parts)) > 1e-3


# ---- device and construction ----


@pytest.mark.parametrize("name", LOSSES)
def test_loss_moves_with_its_device_and_never_waits_for_it(name):
    """The device "meta" has no values: tensors left on the CPU, and reading a number, are errors there."""
    loss = make(name, torch.tensor([500, 200, 0, 2]), scale=25.0).to("meta")
    logits, labels = torch.zeros(8, 4, device="meta"), torch.zeros(8, dtype=torch.long, device="meta")
    value = step_loss(loss, logits, labels, parts=2)
    assert value.device.type == "meta"
    assert value.dtype == torch.float32
    assert not list(loss.parameters())


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_the_configuration_names_the_loss_its_scale_and_its_options(name, options):
    """Options of other losses are ignored."""
    logits, labels, counts, _ = random_case(0)
    others = {key: 0.123 for key in OTHER if key not in KEYWORDS[name]}
    own = {key: KEYS[key].default for key in KEYWORDS[name]} | options
    built = build_loss(SimpleNamespaceByKey(loss_type=name, classifier_scale=7.0, **others, **own), counts)
    assert type(built) is LOSSES[name]
    assert torch.equal(built(logits, labels), make(name, counts, scale=7.0, **options)(logits, labels))


class SimpleNamespaceByKey(SimpleNamespace):
    """A configuration: attributes that can also be read by key."""

    __getitem__ = SimpleNamespace.__getattribute__


def test_options_and_defaults_are_those_of_the_schema():
    for name, loss in LOSSES.items():
        parameters = inspect.signature(loss).parameters
        for key, keyword in KEYWORDS[name].items():
            assert parameters[keyword].default == KEYS[key].default
        assert set(parameters) == {"class_counts", "scale", *KEYWORDS[name].values()}


@pytest.mark.parametrize("name", [name for name in LOSSES if KEYWORDS[name]])
@pytest.mark.parametrize("size", [0.0, 100.0])
def test_extreme_options_leave_the_loss_finite(name, size):
    """At both ends of the allowed range, for samples that are certainly correct and for a class without images."""
    counts, logits = torch.tensor([900, 0, 90, 10]), size * torch.eye(4)
    for key in KEYWORDS[name]:
        row = KEYS[key]
        for option in (row.min, 1e-3, min(row.max, 10.0)):
            z = logits.clone().requires_grad_()
            value = step_loss(make(name, counts, 25.0, **{key: option}), z, torch.arange(4))
            value.backward()
            assert value.isfinite(), (key, option)
            assert z.grad.isfinite().all(), (key, option)


def configure(*options):
    """(the run directory's name, warnings)"""
    lines = []
    cfg = load_config("digits_lt", "clip_tiny", "lift+", [str(option) for option in options], lines.append)
    return cfg.output_dir.rpartition("/")[2], lines


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in KEYWORDS.items() for key in keys])
def test_an_option_names_the_run_and_is_for_its_own_loss_alone(name, key):
    bare, _ = configure("loss_type", name)
    assert configure("loss_type", name, key, KEYS[key].default) == (bare, [])
    assert configure("loss_type", name, key, 0.25) == (f"{bare}_{key}_0.25", [])
    assert configure("loss_type", "CE", key, 0.25)[1] == [f"{key} has no effect while loss_type is CE"]
    assert configure("loss_type", "CE", key, KEYS[key].default)[1] == []
