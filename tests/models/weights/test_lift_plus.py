"""Checkpoints of LIFT+ itself: a writer of its naming, module by module, and models that load such files."""

import re

import pytest
import torch
from helpers import execute, normal_images, randomize, refused, resnet, vit

from models import Model, convert_upstream, peft
from models.backbones.text import TextConfig, TextTransformer
from models.backbones.tokenizer import ClipTokenizer
from models.heads import HEADS
from models.heads.text_similarity import TextSimilarity
from models.heads.texts import TextEncoderFeatures
from models.peft.adapter import AdaptedMlp
from models.peft.aft import PartlyTrainedLinear
from models.peft.coop import PromptLearner
from models.peft.lora import LoraQKV
from models.peft.ssf import ScaleShift
from models.precision import FrozenWeights
from trainer import Trainer
from utils.config.schema import METHODS
from utils.errors import CheckpointError, ModelError
from utils.run import checkpoint
from utils.run.checkpoint import trainable_tensors
from utils.run.directory import RunDir

OF_LIFT_PLUS = ["fft", "bitfit", "ln_tuning", "pt", "lora", "adapter", "adaptformer", "ssf", "aft"]
ALL = [*OF_LIFT_PLUS, "+".join(OF_LIFT_PLUS)]


def options(methods, seed=0):
    own = {"len": 3, "dim": 2, "ratio": 0.1, "loc": "all", "seed": seed}
    chosen = {}
    for name in methods:
        chosen |= {name: True, f"{name}_layers": [0, 2]}
        chosen |= {f"{name}_{option}": own[option] for option in METHODS[name].options}
    return chosen


def image_model(methods, aft_seed=0, seed=0):
    """A classifier on an image tower of three blocks, all random."""
    tower = vit(64, 3, 2, 4, True)
    randomize(tower)  # the frozen weights of all models agree
    peft.attach(tower, peft.methods_from_keys(options(methods, aft_seed)), num_classes=5)
    return randomize_trained(Model(tower, HEADS["LinearClassifier"](5, 64), (0.5,) * 3, (0.5,) * 3), seed)


def text_model(methods, aft_seed=0, seed=0):
    """CLIP's own head with everything in it: a text tower that trains, a context, projections, adapters."""
    text = TextTransformer(TextConfig(64, 3))
    text.token_embedding = torch.nn.Embedding(12, 64)
    tower = vit(64, 1, 2, 4, True).requires_grad_(False)
    randomize(text)
    randomize(tower)
    peft.attach(text, peft.methods_from_keys(options(methods, aft_seed)), num_classes=2)
    tokens = torch.tensor([[10, 1, 1, 5, 11], [10, 1, 1, 6, 11]])
    which = torch.tensor([[-1, 0, 1, -1, -1]] * 2)
    texts = TextEncoderFeatures(text, ClipTokenizer(), ["one", "two"])
    texts.set_prompts(tokens, PromptLearner(torch.zeros(2, 64), which))
    head = TextSimilarity(texts, torch.eye(64), torch.eye(64), torch.tensor(0.0))
    peft.attach_to_head(head, {"proj_tuning": {}, "clip_adapter": {"dim": 3}})
    return randomize_trained(Model(tower, head, (0.5,) * 3, (0.5,) * 3), seed)


def resnet_model(methods, aft_seed=0, seed=0, joint=0):
    tower = resnet((2, 1, 3, 1), 8, 64, joint)
    randomize(tower)
    peft.attach(tower, {name: {} for name in methods}, num_classes=5)
    return randomize_trained(Model(tower, HEADS["CosineClassifier"](5, tower.dim, 25.0), (0.5,) * 3, (0.5,) * 3), seed)


def randomize_trained(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) / 10
    return model


# ---- a writer of LIFT+'s naming ----


def linear_tensors(layer, place):
    """{name: tensor} of one of a block's Linears and its wrappers; place: (attn or mlp, in or out_proj)."""
    part, side = place
    tensors = {}
    while True:
        if isinstance(layer, LoraQKV):
            for name in "qv":
                update = getattr(layer, name)
                tensors[f"attn.lora.{name}.down"] = update.down.weight.T  # [in, r]
                tensors[f"attn.lora.{name}.up"] = update.up.weight.T  # [r, out]
        elif isinstance(layer, ScaleShift):
            tensors[f"{part}.ssf.{side}.scale"] = layer.scale
            tensors[f"{part}.ssf.{side}.shift"] = layer.shift
        elif isinstance(layer, PartlyTrainedLinear):
            for kind in ("weight", "bias"):
                entries, whole = getattr(layer, kind), getattr(layer.wrapped, kind)
                mask = torch.zeros(whole.numel(), dtype=torch.bool)
                mask[entries.index] = True
                tensors[f"{part}.aft.{side}.masked_{kind}.optimized_params"] = entries.values
                tensors[f"{part}.aft.{side}.masked_{kind}.mask"] = mask.view_as(whole)
        else:
            for kind in ("weight", "bias"):
                if getattr(layer, kind).requires_grad:
                    tensors[f"{part}_{side}_{kind}"] = getattr(layer, kind)
            return tensors
        layer = layer.wrapped


def bottleneck_tensors(bottleneck, prefix):
    return {
        f"{prefix}.{layer}.{kind}": getattr(getattr(bottleneck, layer), kind)
        for layer in ("norm", "down", "up")
        for kind in ("weight", "bias")
    }


def block_tensors(block):
    mlp, tensors = block.mlp, {}
    if isinstance(mlp, AdaptedMlp):
        tensors |= bottleneck_tensors(mlp.adapter, "mlp.adapter")
        mlp = mlp.wrapped
    if hasattr(block.side, "down"):
        tensors |= bottleneck_tensors(block.side, "adaptformer") | {"adaptformer.scale": block.side.scale.view(1)}
    if hasattr(block.prompt, "tokens"):
        tensors["prompt"] = block.prompt.tokens
    for name in ("norm1", "norm2"):
        for kind in ("weight", "bias"):
            if getattr(getattr(block, name), kind).requires_grad:
                tensors[f"{name}_{kind}"] = getattr(getattr(block, name), kind)
    attn = block.attn
    for layer, place in (
        (attn.qkv, ("attn", "in_proj")),
        (attn.proj, ("attn", "out_proj")),
        (mlp.fc1, ("mlp", "in_proj")),
        (mlp.fc2, ("mlp", "out_proj")),
    ):
        tensors |= linear_tensors(layer, place)
    return tensors


def lift_plus_file(model):
    """The {"tuner": ...} of a checkpoint that LIFT+ would write for a native model."""
    tensors = {}
    towers = {"image_encoder": model.tower}
    if isinstance(model.head, TextSimilarity):
        towers["text_encoder"] = model.head.texts.tower
        tensors["text_encoder.ctx"] = model.head.texts.context.vectors
        tensors |= bottleneck_tensors(model.head.image_adapter, "image_adapter")
        tensors |= bottleneck_tensors(model.head.text_adapter, "text_adapter")
        tensors |= {"image_proj": model.head.image_projection, "text_proj": model.head.text_projection}
    else:
        tensors |= {f"classifier.{name}": value for name, value in model.head.named_parameters()}
    for encoder, tower in towers.items():
        for i, block in enumerate(tower.blocks):
            tensors |= {f"{encoder}.blocks.{i}.{name}": value for name, value in block_tensors(block).items()}
    return {"tuner": {name: value.detach().clone() for name, value in tensors.items()}}


def load(model, content, path):
    """As a test run does with a file of that content."""
    torch.save(content, path / "checkpoint.pth.tar")
    checkpoint.restore(model, RunDir(path).find_checkpoint(), {"backbone": "any"}, convert_upstream)


# ---- loading ----


@pytest.mark.parametrize("names", ALL)
@pytest.mark.parametrize("build", [image_model, text_model])
@torch.no_grad()
def test_every_tensor_arrives(build, names, tmp_path):
    """A model with other trainable values and another choice of entries computes the same as the written one."""
    written = build(names.split("+"), aft_seed=1, seed=1).eval()
    loaded = build(names.split("+")).eval()
    images = normal_images(2, 4)
    expected = written.head(written.tower(images))
    assert not torch.allclose(loaded.head(loaded.tower(images)), expected)
    load(loaded.train().eval(), lift_plus_file(written), tmp_path)
    assert torch.equal(loaded.head(loaded.tower(images)), expected)
    assert trainable_tensors(loaded).keys() == trainable_tensors(written).keys()


OPENAI_NAMES = {f"stages.{i}": f"layer{i + 1}" for i in range(4)} | {
    "shortcut.conv.conv": "downsample.0",
    "shortcut.conv.bn": "downsample.1",
    "conv1_1x1.conv": "conv1",
    "conv1_1x1.bn": "bn1",
    "conv2_kxk.conv": "conv2",
    "conv2_kxk.bn": "bn2",
    "conv3_1x1.conv": "conv3",
    "conv3_1x1.bn": "bn3",
}


@pytest.mark.parametrize("joint", [0, 64])
@pytest.mark.parametrize("names", ["bitfit", "fft", "ssf", "bitfit+ssf"])
@torch.no_grad()
def test_every_tensor_of_a_resnet_arrives(names, joint, tmp_path):
    """Their names are those of the published files, with _ for the dots, and blocks counted through all stages."""
    written = resnet_model(names.split("+"), seed=1, joint=joint)
    loaded = resnet_model(names.split("+"), joint=joint)
    tuner = {"classifier.weight": written.head.weight}
    for name, value in trainable_tensors(written.tower).items():
        if name.startswith("after."):
            tuner[name.replace("after", "image_encoder.ssf")] = value
            continue
        published = name.removeprefix("net.")
        if joint:  # timm's names of CLIP's form -> OpenAI's
            for theirs, openai in OPENAI_NAMES.items():
                published = published.replace(theirs, openai)
        _, stage, block, rest = re.split(r"layer(\d)\.(\d)\.", published)
        tuner[f"image_encoder.blocks.{[0, 2, 3, 6][int(stage) - 1] + int(block)}_{rest.replace('.', '_')}"] = value
    if names != "ssf":
        named = {name for name in tuner if name.startswith("image_encoder.blocks.")}
        assert {name.split(".")[2].split("_")[0] for name in named} == set("0123456")
        assert {f"image_encoder.blocks.{i}_bn1_bias" for i in range(7)} <= named
        assert "image_encoder.blocks.2_downsample_1_bias" in named
        assert ("image_encoder.blocks.3_conv2_weight" in named) == (names == "fft")
    images = normal_images(2, 64)
    load(loaded, {"tuner": tuner}, tmp_path)
    assert torch.equal(loaded.head(loaded.tower(images)), written.head(written.tower(images)))


@torch.no_grad()
def test_a_mask_of_another_number_of_entries_is_taken_over(tmp_path):
    """LIFT+ may have chosen some more or fewer."""
    model = image_model(["aft"])
    content = lift_plus_file(model)
    prefix = "image_encoder.blocks.2.mlp.aft.in_proj.masked_weight"
    mask = torch.zeros(256, 64, dtype=torch.bool)
    mask[3, 4] = mask[200, 60] = True
    content["tuner"] |= {f"{prefix}.mask": mask, f"{prefix}.optimized_params": torch.tensor([7.0, 9.0])}
    load(model, content, tmp_path)
    linear = model.tower.blocks[2].mlp.fc1
    weight = linear.weight(linear.wrapped.weight)
    assert weight[3, 4] == 7
    assert weight[200, 60] == 9
    assert torch.equal(weight[~mask], linear.wrapped.weight[~mask])


def test_entries_arrive_in_float32_beside_frozen_weights_in_half_precision(tmp_path):
    """As in a run, which casts frozen tensors before it reads a checkpoint."""
    written, loaded = image_model(["aft"], aft_seed=1, seed=1), image_model(["aft"])
    FrozenWeights(loaded, torch.bfloat16)
    load(loaded, lift_plus_file(written), tmp_path)
    expected = trainable_tensors(written)
    for name, value in trainable_tensors(loaded).items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_training_starts_from_the_entries_of_its_seed_alone(seed, config, few_images, tmp_path):
    """A native checkpoint has no positions, so a later test could not find those of another seed."""
    run = Trainer(config("num_epochs", 1, "v.aft_seed", seed, "v.aft_ratio", 0.01, method="aft"))
    execute(run)
    (tmp_path / "theirs").mkdir()
    torch.save(lift_plus_file(run.model), tmp_path / "theirs/checkpoint.pth.tar")
    options = ("num_epochs", 1, "v.aft_ratio", 0.01, "model_dir", tmp_path / "theirs", "output_dir", "further")
    if seed == 0:
        results = execute(Trainer(config(*options, method="aft")))
        test = ("v.aft_ratio", 0.01, "test_only", "True", "model_dir", "output/further")
        assert execute(Trainer(config(*test, method="aft")))["per_class"] == results["per_class"]
    else:
        with refused(ModelError):
            execute(Trainer(config(*options, method="aft")))


@pytest.mark.parametrize("name", ["adaptformer.scale", "adaptformer.down.weight"])
def test_a_missing_tensor_is_named(name, tmp_path):
    content = lift_plus_file(image_model(["adaptformer"]))
    del content["tuner"][f"image_encoder.blocks.2.{name}"]
    with refused(CheckpointError, kind="other_tensors"):
        load(image_model(["adaptformer"]), content, tmp_path)


@pytest.mark.parametrize("name", ["image_encoder.blocks.1.prompt", "text_encoder.ctx", "head.weight", "extra"])
def test_an_unexpected_tensor_is_named(name, tmp_path):
    content = lift_plus_file(image_model(["adaptformer"]))
    content["tuner"][name] = torch.zeros(5, 64)
    with refused(CheckpointError, kind="other_tensors"):
        load(image_model(["adaptformer"]), content, tmp_path)


def test_another_method_is_refused(tmp_path):
    with refused(CheckpointError, kind="other_tensors"):
        load(image_model(["lora"]), lift_plus_file(image_model(["adaptformer"])), tmp_path)


def test_wrong_shapes_are_refused(tmp_path):
    content = lift_plus_file(image_model(["lora"]))
    content["tuner"]["classifier.weight"] = torch.zeros(6, 64)
    with refused(CheckpointError, kind="other_tensors"):
        load(image_model(["lora"]), content, tmp_path)
    content = lift_plus_file(image_model(["aft"]))
    content["tuner"]["image_encoder.blocks.0.attn.aft.in_proj.masked_weight.mask"] = torch.zeros(3, 3, dtype=torch.bool)
    with refused(ModelError, kind="wrong_mask"):
        load(image_model(["aft"]), content, tmp_path)
    del content["tuner"]["image_encoder.blocks.0.attn.aft.in_proj.masked_weight.mask"]
    with refused(ModelError, kind="wrong_mask"):
        load(image_model(["aft"]), content, tmp_path)


class Evil:
    """Creates a folder if it is unpickled without care."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("content", ["evil", "list", "number", "no tuner", "names", "text"])
def test_other_files_are_refused_and_run_nothing(content, tmp_path):
    contents = {
        "evil": {"tuner": {"a": Evil(tmp_path / "ran")}},
        "list": [torch.ones(2)],
        "number": {"tuner": 7},
        "no tuner": {"head": {"a": torch.ones(2)}},
        "names": {"tuner": {1: torch.ones(2)}},
        "text": {"tuner": {"a": "b"}},
    }
    with pytest.raises(CheckpointError) as caught:  # in words of torch's and pickle's
        load(image_model(["lora"]), contents[content], tmp_path)
    assert caught.value.kind == "damaged_upstream_checkpoint"
    assert not (tmp_path / "ran").exists()


def test_our_own_checkpoint_goes_before(tmp_path):
    (tmp_path / "checkpoint.pth.tar").touch()
    assert RunDir(tmp_path).find_checkpoint().name == "checkpoint.pth.tar"
    (tmp_path / "checkpoint.safetensors").touch()
    assert RunDir(tmp_path).find_checkpoint().name == "checkpoint.safetensors"


def test_a_run_tests_such_a_checkpoint(config, few_images, tmp_path):
    """Trained here, written as LIFT+ would, tested from there: the same accuracy."""
    run = Trainer(config())
    results = execute(run)
    (tmp_path / "theirs").mkdir()
    torch.save(lift_plus_file(run.model), tmp_path / "theirs/checkpoint.pth.tar")
    again = execute(Trainer(config("test_only", "True", "model_dir", tmp_path / "theirs")))
    assert again["per_class"] == results["per_class"]
    assert (tmp_path / "theirs/results_test.json").exists()
