"""Forward passes of training and testing on a fake GPU: every method, head, loss, precision and backbone family."""

import pytest
import torch
from cases import covering
from fake_gpu import FAMILIES, NAMES, fake_gpu, labels, model_with, pixels, small_backbone, small_model

from models.extractor import NO_CACHE
from models.features import cached_features
from models.heads import HEADS, init
from models.losses import LOSSES
from models.outputs import label_probabilities, mean_logits, top_predictions
from models.peft import METHODS
from models.precision import FrozenWeights
from utils.device.precision import PRECISIONS

COUNTS = torch.tensor([9, 4, 1])


def train_and_test(model, precision, crops=1, test_precision=None):
    """The forward passes of a training step and of a test, as the Trainer takes them. crops: more than one for tte."""
    loss = LOSSES["LA"](COUNTS)
    with fake_gpu(model, loss):
        frozen = FrozenWeights(model, precision, test_precision or precision)
        frozen.cast(precision)
        model.train()
        logits = model(pixels(2, model.tower.resolution))
        assert logits.dtype == torch.float32
        assert loss(logits, labels(2)).device.type == "cuda"

        frozen.cast(test_precision or precision)
        model.eval()
        with torch.inference_mode():
            batches = [pixels(2 * crops, model.tower.resolution).unflatten(0, (2, crops))]
            (features,), _ = cached_features(model, batches, [2], crops, NO_CACHE, dict)
            values = mean_logits(model.head, features)
            found = [*top_predictions(values, 2), label_probabilities(values, labels(2))]
        assert [tensor.device.type for tensor in found] == ["cuda"] * 3


@pytest.mark.parametrize(("method", "precision"), covering([*METHODS], [*PRECISIONS], together=1))
def test_every_method(method, precision):
    train_and_test(model_with(method), PRECISIONS[precision])


@pytest.mark.parametrize(("head", "precision"), covering([*HEADS], [*PRECISIONS], together=1))
def test_every_head(head, precision):
    train_and_test(small_model(head=head), PRECISIONS[precision], crops=2)


def test_another_precision_in_tests():
    """The frozen weights are stored on the CPU then, and cast twice."""
    train_and_test(small_model(), torch.bfloat16, test_precision=torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family):
    """In bf16, a GPU's default."""
    of_resnets = {"CLIP ResNet": "ssf", "timm ResNet": "fft"}
    methods = {of_resnets[family]: {}} if family in of_resnets else {"lora": {"dim": 2}, "pt": {"len": 2}}
    depth = 2 if family == "CLIP ViT" else 1  # from a block to the next, all do the same
    train_and_test(small_model(family, depth=depth, methods=methods), torch.bfloat16)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_texts_that_train(precision):
    methods = {"coop": {"init": "photo"}}
    train_and_test(small_model(head=None, methods=methods, text_methods={"lora": {"dim": 2}}), PRECISIONS[precision])


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name):
    loss = LOSSES[name](COUNTS, scale=25.0)
    with fake_gpu(loss):
        logits = torch.zeros(4, 3, device="cuda")
        weight = loss.total_weight(labels(4))
        assert (loss(logits, labels(4)).sum() / weight).device.type == "cuda"


# ---- initialisations of a head, except those that read numbers ----


@pytest.mark.parametrize("family", ["CLIP ViT", "CLIP ResNet", "SigLIP 2"])
def test_semantic_values(family, monkeypatch):
    backbone = small_backbone(family)
    with fake_gpu(backbone):
        joint = backbone.config.joint
        monkeypatch.setattr(backbone, "encode_classnames", lambda names: torch.zeros(len(names), joint, device="cuda"))
        found = init.semantic(backbone, NAMES, init.no_features)
        assert (found.weight.device.type, found.weight.shape) == ("cuda", (3, backbone.image.dim))


def test_class_means(monkeypatch):
    monkeypatch.setattr(init, "_images_per_class", lambda labels, names: torch.ones(len(names), device=labels.device))
    backbone = small_backbone("CLIP ViT")
    with fake_gpu(backbone):
        found = init.class_mean(backbone, NAMES, lambda: (torch.zeros(4, 8, device="cuda"), labels(4)))
        assert found.weight.device.type == "cuda"
