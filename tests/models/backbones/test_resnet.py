"""The ResNet towers against open_clip's and timm's own modules with the same weights; precision; fixed statistics."""

import copy

import helpers
import pytest
import torch
from helpers import RESNET_RESOLUTION, STAGES, assert_near, execute, moved, normal_images, refused
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from datasets import DATASETS
from datasets.base import DataSet
from datasets.sets import digits_lt
from models import peft
from models.backbones import BACKBONES
from models.backbones.backbone import Backbone
from models.backbones.tokenizer import tokenize
from models.precision import FrozenWeights
from models.weights.lift_plus import published_name
from trainer import Trainer
from utils.config import load_config
from utils.errors import CheckpointError, ConfigError
from utils.run import checkpoint

RESNETS = [name for name, source in BACKBONES.items() if source.config and source.config.image.kind == "ResNet"]
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
    """The tower of either form, in float32, in training mode as in a trainer; nothing trains."""
    return request.getfixturevalue(request.param)[1].image.requires_grad_(False).train()


def images_of_contrasts(resolution=RESNET_RESOLUTION):
    """Three images that the pooling does not average to the same."""
    return normal_images(3, resolution) * torch.tensor([0.5, 1, 2]).view(3, 1, 1, 1)


def let_train(tower, what):
    """Makes the parameters inside the stages that match TRAINED trainable; returns them."""
    trained = [p for stage in tower.stages for name, p in stage.named_parameters() if TRAINED[what](name)]
    for parameter in trained:
        parameter.requires_grad_(True)
    return trained


# ---- the networks ----


@torch.no_grad()
def test_clip_image_tower_is_open_clips(clip_pair, device):
    theirs, ours = clip_pair
    images = images_of_contrasts()
    features = moved(ours.image, device)(images.to(device))
    assert_near(features, theirs.encode_image(images))
    assert features.shape == (3, ours.image.dim) == (3, ours.config.joint)
    assert features.std(dim=0).mean() > 0.01  # they distinguish images
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
def test_timm_tower_is_timms(resolution, timm_pair, device):
    theirs, ours = timm_pair
    images = images_of_contrasts(resolution)
    features = moved(ours.image, device)(images.to(device))
    assert_near(features, theirs.forward_head(theirs.forward_features(images), pre_logits=True))
    assert features.shape == (3, ours.image.dim)
    assert features.std(dim=0).mean() > 0.01
    assert ours.text is None and ours.image_projection is None


@pytest.mark.parametrize("name", RESNETS)
def test_published_sizes(name):
    config = BACKBONES[name].config
    with torch.device("meta"):
        backbone = Backbone(config)
    tower = backbone.image
    assert tower.dim == config.image.dim == {"clip_rn50": 1024, "clip_rn101": 512}.get(name, 2048)
    assert tower.resolution == 224
    convolutions = sum(isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1) for m in tower.net.modules())
    stem = 3 if config.text else 1
    # the name counts 3 layers per block, the stem as one, and the classifier
    assert int(name.rpartition("rn")[2]) == 3 * (convolutions - stem) + 2 == 3 * config.image.depth + 2
    assert [len(stage) for stage in tower.stages] == list(config.image.stages)
    if config.text:
        assert (tower.net.head.num_heads, tower.net.head.feat_size) == (32, (7, 7))


def test_stages_are_the_four_in_order(tower):
    assert [len(stage) for stage in tower.stages] == list(STAGES)
    widths = [next(len(p) for p in stage.parameters() if p.shape[2:] == (3, 3)) for stage in tower.stages]
    assert widths == [8, 16, 32, 64]
    inside = [p for stage in tower.stages for p in stage.parameters()]
    assert not any(next(tower.net.parameters()) is p for p in inside)
    assert len(tower.blocks) == sum(STAGES)
    in_blocks = [p for block in tower.blocks for p in block.parameters()]
    assert len(in_blocks) == len(inside) and all(p is q for p, q in zip(in_blocks, inside, strict=True))


@torch.no_grad()
def test_after_is_a_slot_on_the_pooled_feature(tower):
    """A method is outside autocast there, and casts by itself."""
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


@pytest.mark.parametrize("method", ["fft", "bitfit"])
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.bfloat16, 0.03), (torch.float16, 0.004), (torch.float32, 1e-6)], ids=str
)
def test_a_whole_tower_trains_in_every_precision(method, dtype, tolerance, tower, device):
    """As LIFT: stem and pooling, too. No frozen tensor may be left to infer the precision from."""
    tower = copy.deepcopy(tower).to(device)
    images, target = normal_images(4, RESNET_RESOLUTION), normal_images(4, tower.dim, seed=1)[:, 0, 0]
    images, target = images.to(device), target.to(device)
    peft.attach(tower, {method: {}}, 10, variant="lift")
    trained = [p for p in tower.parameters() if p.requires_grad]
    assert (len(trained) == len(list(tower.parameters()))) == (method == "fft")

    def step():
        features = tower(images)
        (features.float() * target).sum().backward()
        gradients = [p.grad for p in trained]
        tower.zero_grad()
        return features.detach(), gradients

    exact, exact_gradients = step()
    frozen = FrozenWeights(tower, *({dtype, torch.float32} if dtype == torch.bfloat16 else {dtype}))
    frozen.cast(dtype)
    features, gradients = step()
    assert features.dtype == dtype
    distance = ((features.float() - exact).norm(dim=1) / exact.norm(dim=1)).max()
    assert distance < tolerance
    assert bool(distance > 1e-5) == (dtype != torch.float32)  # it was rounded
    for found, expected in zip(gradients, exact_gradients, strict=True):
        assert found.dtype == torch.float32
        if expected.norm() > 1e-3:  # a bias of the keys changes nothing, so its gradient is rounding
            assert nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.9
    if dtype == torch.bfloat16:
        frozen.cast(torch.float32)
        assert torch.equal(step()[0], exact)


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
        tower = Backbone(BACKBONES["in1k_rn50"].config).image
    for model in (tower, tower.train(), nn.Sequential(tower).train()):
        assert model.training
        assert not any(module.training for module in tower.net.modules())
    assert not tower.eval().training


# ---- running statistics ----


@pytest.fixture(params=["clip_pair", "timm_pair"])
def moving_pair(request):
    """The other package's tower and the native one with bn_tuning, in float64; and the native name of each tensor."""
    theirs, ours = request.getfixturevalue(request.param)
    theirs = copy.deepcopy(theirs.visual if request.param == "clip_pair" else theirs).double().train()
    tower = copy.deepcopy(ours.image).double()
    tower.precision = None  # that of its weights
    peft.attach(tower, {"bn_tuning": {}}, 10)
    mapped = {name: published_name(name) for name, _ in [*tower.named_parameters(), *tower.named_buffers()]}
    return theirs, tower.train(), mapped


def test_moving_statistics_are_the_other_packages_in_training(moving_pair):
    """Features, gradients of trainable parameters, statistics after each of two steps; then the test's features."""
    theirs, tower, mapped = moving_pair
    features = (
        theirs if hasattr(theirs, "attnpool") else lambda x: theirs.forward_head(theirs.forward_features(x), True)
    )
    norms = [name for name, module in tower.named_modules() if isinstance(module, _BatchNorm)]
    trained = {name: p for name, p in tower.named_parameters() if p.requires_grad}
    assert set(trained) == {f"{name}.{kind}" for name in norms for kind in ("weight", "bias")}
    theirs_trained = dict(theirs.named_parameters())
    theirs_trained = {name: theirs_trained[mapped[name]] for name in trained}
    optimizers = [torch.optim.SGD(list(p.values()), 1e-3) for p in (trained, theirs_trained)]
    for step in range(2):
        images = normal_images(4, RESNET_RESOLUTION, seed=step).double()
        outputs = tower(images), features(images)
        assert_near(outputs[0], outputs[1], 1e-9)
        for output in outputs:
            output.square().mean().backward()
        for name, parameter in trained.items():
            assert torch.allclose(parameter.grad, theirs_trained[name].grad, rtol=1e-6, atol=1e-12), name
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        buffers = dict(theirs.named_buffers())
        for name, value in tower.named_buffers():
            counted = name.endswith("num_batches_tracked")  # the native one starts at 0, independent of the file
            assert torch.allclose(value, torch.tensor(step + 1) if counted else buffers[mapped[name]], rtol=1e-9), name
    images = images_of_contrasts().double()
    with torch.no_grad():
        before = {name: value.clone() for name, value in tower.named_buffers()}
        assert_near(tower.eval()(images), (theirs.eval(), features(images))[1], 1e-9)
        assert all(torch.equal(value, before[name]) for name, value in tower.named_buffers())


def test_a_moving_norm_is_its_formula(moving_pair):
    """Batch statistics; the running ones move by a tenth towards them, the variance as an unbiased estimate."""
    _, tower, _ = moving_pair
    norm = tower.batch_norms[1]
    mean, var, count = norm.running_mean.clone(), norm.running_var.clone(), int(norm.num_batches_tracked)
    seen = []
    norm.register_forward_hook(lambda module, args, output: seen.append((args[0].detach().clone(), output)))
    tower(normal_images(3, RESNET_RESOLUTION).double())
    x, y = seen[0]
    rows = x.transpose(0, 1).flatten(1)
    shift, spread = rows.mean(1), rows.var(1, correction=0)
    expected = (rows - shift[:, None]) / (spread[:, None] + 1e-5) ** 0.5 * norm.weight[:, None] + norm.bias[:, None]
    assert torch.allclose(y.transpose(0, 1).flatten(1), expected.relu(), rtol=1e-9, atol=1e-9)
    assert torch.allclose(norm.running_mean, 0.9 * mean + 0.1 * shift, rtol=1e-9)
    assert torch.allclose(norm.running_var, 0.9 * var + 0.1 * spread * len(rows[0]) / (len(rows[0]) - 1), rtol=1e-9)
    assert norm.num_batches_tracked == count + 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_move_in_half_precision(dtype, tower):
    towers = []
    for precision in (torch.float32, dtype):
        copied = copy.deepcopy(tower)
        peft.attach(copied, {"bn_tuning": {}}, 10)
        FrozenWeights(copied, precision)
        copied.train()(normal_images(4, RESNET_RESOLUTION)).float().square().mean().backward()
        towers.append(copied)
    for exact, found in zip(*(one.batch_norms for one in towers), strict=True):
        for kind in ("running_mean", "running_var"):
            assert (getattr(found, kind) - getattr(exact, kind)).norm() < 0.03 * getattr(exact, kind).norm()
            assert getattr(found, kind).dtype == torch.float32
        assert found.weight.grad.dtype == torch.float32


def test_only_the_norms_of_a_tower_with_bn_tuning_leave_evaluation_mode(tower):
    tower = copy.deepcopy(tower)
    peft.attach(tower, {"bn_tuning": {}, "fft": {}}, 10)
    model = nn.Sequential(tower)
    for mode in (True, False, True):
        model.train(mode)
        for module in tower.net.modules():
            assert module.training == (mode and isinstance(module, _BatchNorm)) or module in inside_norms(tower)


def inside_norms(tower):
    """timm's BatchNorms contain their activation."""
    return {child for norm in tower.batch_norms for child in norm.children()}


@pytest.fixture
def bn_config(tmp_path, monkeypatch):
    """bn_config(KEY, VALUE, ...): a small CLIP ResNet with bn_tuning on few of the digits."""
    helpers.clip_resnet_pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    data = digits_lt.build("digits_lt", None)
    train, test = (part.subset(slice(None, None, 5)) for part in (data.train, data.test))
    few = DataSet("digits_lt", data.classnames, train, test)
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: few)

    def make(*options):
        base = ["weights", tmp_path / "clip_rn.safetensors", "prec_train", "fp32", "prec_test", "fp32"]
        base += ["activation", "quick_gelu", "mean", "clip", "std", "clip", "num_workers", 0, "num_epochs", 2]
        base += ["batch_size", 32, "v.bn_tuning", "True", "lr", 0.002]
        return load_config("digits_lt", "clip_rn", "lp", [str(option) for option in (*base, *options)])

    return make


def statistics(run):
    return {name: value.clone() for name, value in run.model.tower.named_buffers()}


def test_a_run_saves_and_restores_the_statistics(bn_config):
    """For exactly the BatchNorms, and strictly; a test from the file has the same results."""
    run = Trainer(bn_config())
    results = execute(run)
    fresh = Trainer(bn_config("output_dir", "fresh", "lr", 0, "v.bn_tuning", "False"))
    execute(fresh)
    assert not any(torch.equal(value, statistics(fresh)[name]) for name, value in statistics(run).items())
    path = run.run_dir.path / "checkpoint.safetensors"
    tensors, about = checkpoint.load(path)
    norms = {f"tower.{name}" for name, module in run.model.tower.named_modules() if isinstance(module, _BatchNorm)}
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert tensors.keys() == {f"{name}.{kind}" for name in norms for kind in kinds} | {"head.weight"}
    again = Trainer(bn_config("test_only", "True"))
    assert execute(again)["per_class"] == results["per_class"]
    assert all(torch.equal(value, statistics(run)[name]) for name, value in statistics(again).items())
    del tensors["tower.net.stem.conv1.bn.running_var"]
    checkpoint.save(path, tensors, about)
    with refused(CheckpointError):
        execute(Trainer(bn_config("test_only", "True")))


def test_a_resumed_run_has_the_same_statistics_bit_by_bit(bn_config):
    whole = Trainer(bn_config("output_dir", "whole"))
    execute(whole)
    with Trainer(bn_config("output_dir", "parts")) as killed:
        killed.fit(1)
    parts = Trainer(bn_config("output_dir", "parts"))
    execute(parts)
    for name, value in statistics(whole).items():
        assert torch.equal(value, statistics(parts)[name]), name
    files = [(run.run_dir.path / "checkpoint.safetensors").read_bytes() for run in (whole, parts)]
    assert files[0] == files[1]


def test_bn_tuning_takes_whole_steps_of_one_process(bn_config, monkeypatch):
    for parts in (4, None):
        with refused(ConfigError):
            bn_config("accum_step", parts)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with refused(ConfigError):
        bn_config()
