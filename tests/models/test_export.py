"""torch.export of towers and whole models: any batch size, only torch's plain operations, the numbers of eager."""

import pytest
import torch
from cases import FULL
from helpers import SMALL_METHODS, randomize, resnet, vit

from models import Model, peft
from models.heads import HEADS

HALF = (0.5, 0.5, 0.5)
TOWERS = {
    "CLIP's ViT": lambda: vit(64, 2, 8, 32, True),
    "timm's ViT": lambda: vit(64, 2, 8, 32, False),
    "CLIP's ResNet": lambda: resnet((1, 1, 1, 1), 8, 32, 16),
    "ResNet": lambda: resnet((1, 1, 1, 1), 8, 32),
}
METHODS = SMALL_METHODS | {"adapter": {"adapter_dim": 2}}
ALL = "+".join(METHODS)
CASES = [("CLIP's ViT", ALL), ("timm's ViT", ""), ("CLIP's ResNet", ""), ("ResNet", "")]
if FULL:
    CASES += [("CLIP's ViT", method) for method in ("", *METHODS)] + [("timm's ViT", ALL)]
EXAMPLES, SIZES = 3, (1, 2, 64)  # of 17 tokens: the largest of these uses the convolution path in eager


def images_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "methods"), CASES)
@torch.no_grad()
def test_exported_models_equal_eager(name, methods):
    tower, options = TOWERS[name](), {}
    for method in filter(None, methods.split("+")):
        options |= {method: True, **METHODS[method]}
    peft.attach(tower, peft.methods_from_keys(options), num_classes=5)
    randomize(tower)
    model = Model(tower, HEADS["CosineClassifier"](5, tower.dim, scale=25.0), HALF, HALF).eval()
    cases = [(model, images_of)]
    if FULL and not methods:  # else the whole model alone, which has the tower in it
        cases += [(tower, lambda count: images_of(count) / 255)]
    for module, inputs in cases:
        batch = {0: torch.export.Dim("batch")}
        exported = torch.export.export(module, (inputs(EXAMPLES),), dynamic_shapes=(batch,)).module()
        for count in SIZES:
            found, expected = exported(inputs(count)), module(inputs(count))
            assert found.shape == (count, *expected.shape[1:])
            assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exported_graphs_have_torchs_plain_operations(dtype):
    """The patch embedding is the only convolution, and attention is one operation, exported on any device."""
    tower = TOWERS["CLIP's ViT"]().to(dtype).eval().requires_grad_(False)
    program = torch.export.export(tower, (torch.zeros(64, 3, 32, 32),))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("aten.conv2d.default") == 1
    assert targets.count("aten.linear.default") == 4 * 2
    assert targets.count("aten.scaled_dot_product_attention.default") == 2
    assert targets.count("aten.sigmoid.default") == 2
