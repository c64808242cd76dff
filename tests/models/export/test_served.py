"""Served models as ONNX and as programs of torch.export, against the model in eager torch."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from cases import FULL
from family_models import NAMES, pair
from helpers import HALF, randomize, refused, resnet

from models import peft
from models.export import onnx, program
from models.export.comparison import Deviation, batches, compare_probabilities
from models.export.served import Served, frozen_copy
from models.heads import HEADS
from models.heads.text_similarity import TextSimilarity
from models.model import Model
from utils.adjustment import Adjustment
from utils.device.precision import PRECISIONS
from utils.errors import ModelError

SCALE, BIAS, TEMPERATURE = (1.0, 0.5, 2.0), (0.1, -0.2, 0.3), 2.5
ADJUSTMENT = Adjustment(TEMPERATURE, np.array(SCALE), np.array(BIAS))


def trained(name, head, methods):
    """A model of a family with these methods, whose trainable tensors are random."""
    model = Model.create(copy.deepcopy(pair(name).ours), NAMES, head, methods, head_init=None)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


def of_resnet(joint):
    """A ResNet in CLIP's form or in ImageNet's, with SSF, and a cosine head."""
    tower = resnet((1, 1, 1, 1), 8, 64, joint)
    peft.attach(tower, {"ssf": {}, "bitfit": {}}, num_classes=3)
    return Model(randomize(tower), HEADS["CosineClassifier"](3, tower.dim, scale=25.0), HALF, HALF).eval()


# every kind of tower and head; rotation, registers, prompts, gated MLPs and attention pooling are among them
MODELS = {
    "DINOv3 with prompts": lambda: trained("DINOv3, gated", "LinearClassifier", {"lora": {"dim": 2}, "pt": {"len": 2}}),
    "CLIP with CoOp": lambda: trained("OpenAI", None, {"coop": {}, "clip_adapter": {}}),
    "SigLIP 2": lambda: trained("SigLIP 2", None, {"aft": {"ratio": 0.1}}),
    "CLIP's ResNet": lambda: of_resnet(16),
    "ResNet": lambda: of_resnet(0),
}


def pixels(model, count=5):
    side = model.tower.resolution
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, side, side), generator=generator).to(torch.uint8)


@torch.no_grad()
def formula(model, images):
    """softmax((scale * z + bias) / temperature), class by class in float64."""
    z = model(images).double()
    exponentials = torch.stack([((z[:, c] * SCALE[c] + BIAS[c]) / TEMPERATURE).exp() for c in range(3)], 1)
    return (exponentials / exponentials.sum(1, keepdim=True)).numpy()


PROGRAMS = {"SigLIP 2": "bf16"}  # test_models_are_served_in_each_precision and ../test_export.py have the others
if FULL:
    PROGRAMS |= {"CLIP with CoOp": "fp32", "CLIP's ResNet": "fp16", "DINOv3 with prompts": "fp32", "ResNet": "fp32"}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_models_are_served_in_each_precision(name):
    model = MODELS[name]()
    images = pixels(model)
    expected = formula(model, images)
    for precision, dtype in PRECISIONS.items():
        _, probabilities = Served(frozen_copy(model, dtype), ADJUSTMENT).eval()(images)
        compare_probabilities(probabilities.numpy(), expected, precision).require()


@pytest.mark.parametrize(("name", "precision"), PROGRAMS.items())
def test_a_program_computes_the_models_probabilities(name, precision, tmp_path):
    model = MODELS[name]()
    images = pixels(model)
    path = tmp_path / "model.pt2"
    program.write(Served(frozen_copy(model, PRECISIONS[precision]), ADJUSTMENT).eval(), images.shape[-1], path)
    compare_probabilities(program.run(path, images), formula(model, images), precision).require()


@pytest.mark.slow
def test_onnxruntime_computes_the_models_probabilities(tmp_path):
    """In fp16; tests/scripts/test_export.py has another model in float32."""
    model, precision = MODELS["DINOv3 with prompts"](), "fp16"
    model.tower.blocks = model.tower.blocks[:1]  # an export takes seconds for a block
    images = pixels(model)
    path = tmp_path / "model.onnx"
    served = Served(frozen_copy(model, PRECISIONS[precision]), ADJUSTMENT).eval()
    onnx.write(served, images.shape[-1], path)
    compare_probabilities(onnx.run(path, images, precision), formula(model, images), precision).require()

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ((name, kind, shape),) = [(each.name, each.type, each.shape) for each in session.get_inputs()]
    assert (name, kind, shape[1:]) == ("images", "tensor(uint8)", list(images.shape[1:]))
    assert isinstance(shape[0], str)
    outputs = [(each.name, each.type, each.shape[1]) for each in session.get_outputs()]
    assert outputs == [("logits", "tensor(float)", 3), ("probabilities", "tensor(float)", 3)]


@torch.no_grad()
def test_logits_are_adjusted_and_the_zero_shot_models_added():
    model, zero_shot = trained("OpenAI", None, {"lora": {"dim": 2}}), trained("OpenAI", None, {})
    images = pixels(model)
    logits, probabilities = Served(model, ADJUSTMENT, zero_shot)(images)
    expected = model(images) * torch.tensor(SCALE) + torch.tensor(BIAS) + zero_shot(images)
    assert torch.equal(logits, expected)
    assert torch.equal(probabilities, (expected / 2.5).softmax(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_copy_stores_its_tower_in_the_precision_and_leaves_the_model(dtype):
    model = trained("OpenAI", None, {"coop": {}, "lora": {"dim": 2}})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copied = frozen_copy(model, dtype)
    assert {parameter.dtype for parameter in copied.tower.parameters()} == {dtype}
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert isinstance(copied.head, TextSimilarity)
    assert not list(copied.head.texts.parameters())  # no text tower
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_precision_that_onnxruntime_cannot_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnxruntime, "__version__", "1.0")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"of types that it lacks")
    with refused(ModelError, kind="unrunnable_precision"):
        onnx.run(path, torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "bf16")


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else name)
    with refused(ModelError, kind="missing_package"):
        onnx.require_packages()


def test_a_comparison_counts_classes_and_refuses_other_probabilities():
    expected = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.51, 0.49]])
    found = expected + [[0.0, 0.0], [0.0, 0.0], [-0.01, 0.01], [-0.015, 0.015]]
    comparison = compare_probabilities(found, expected, "fp16")
    assert comparison.largest == pytest.approx(0.015)
    assert (comparison.equal, comparison.images) == (0.75, 4)
    comparison.require()
    with pytest.raises(Deviation, match=r"differ by up to 0\.015 from the run's, where 0\.0001 is allowed"):
        compare_probabilities(found, expected, "fp32").require()


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (2, [1, 1]), (17, [16, 1]), (32, [16, 15, 1])])
def test_images_are_compared_in_batches_of_several_sizes(count, sizes):
    images = torch.arange(count)
    assert [len(batch) for batch in batches(images)] == sizes
    assert torch.equal(torch.cat(batches(images)), images)
