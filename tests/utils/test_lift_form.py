"""Runs in LIFT's form: resizing, test crops, prompts, images of the first head, groups, a start from another run."""

import json

import helpers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_near, levels_apart, open_clip_model, refused, train
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms as tv

from datasets import build_data
from datasets.base import ImageList
from datasets.loading.crops import FIRST_DRAW, TestCrops, TestDraws, TrainCrop, build_test_crops, centre_crop, resize
from datasets.sets import cifar100_lt
from models.backbones.tokenizer import tokenize
from models.heads import HEAD_INITS
from models.heads.prompts import class_texts
from models.heads.text_similarity import TextSimilarity
from models.weights.load import load_backbone
from utils.config import load_config
from utils.errors import CheckpointError, ModelError
from utils.evaluators import ClassInfo, evaluate
from utils.run import checkpoint

NAMES = ["zero", "tree_frog", "golden eagle"]


@pytest.fixture(scope="module")
def photo():
    """A real photograph, uint8 [3, 427, 640]."""
    return torch.from_numpy(helpers.photograph().copy()).permute(2, 0, 1)


def as_pillow(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


# ---- images ----


@pytest.mark.parametrize("height, width", [(224, 336), (100, 427), (500, 700)])
def test_bilinear_resizing_is_pillows(photo, height, width):
    expected = as_pillow(photo).resize((width, height), Image.Resampling.BILINEAR)
    found = resize(photo, height, width, "bilinear")
    assert levels_apart(found, torch.from_numpy(np.array(expected)).permute(2, 0, 1)) <= 1
    assert levels_apart(found, resize(photo, height, width)) > 10  # not the bicubic one


@pytest.mark.parametrize("tte", [False, True])
def test_lifts_test_crops_are_torchvisions(photo, tte):
    """One crop: the short side is 8/7 of the resolution; five: it is the resolution + 24."""
    cfg = load_config("imagenet_lt", None, "clip_vit_b16", ["tte", str(tte)])
    size, crop = (248, tv.FiveCrop(224)) if tte else (256, lambda image: [tv.CenterCrop(224)(image)])
    resized = tv.Resize(size, tv.InterpolationMode.BILINEAR)(as_pillow(photo))
    expected = torch.stack([torch.from_numpy(np.array(part)).permute(2, 0, 1) for part in crop(resized)])
    assert levels_apart(build_test_crops(cfg, 224)(photo), expected) <= 1


@pytest.mark.parametrize("model, resolution, size", [("clip_vit_l14", 224, 245), ("clip_vit_l14@336px", 336, 357)])
def test_patches_of_14_pixels_are_tested_with_21_more(model, resolution, size):
    crops = build_test_crops(load_config("imagenet_lt", None, model, ["tte", "True"]), resolution)
    assert (crops.resolution + crops.expand, crops.count) == (size, 5)


def test_training_crops_are_resized_bilinearly(photo):
    crop = TrainCrop(64, seed=0, num_epochs=1, mda=False, interpolation="bilinear")
    (top, left, height, width), mirrored = crop.draw(427, 640, 0, 5)
    part = as_pillow(photo[:, top : top + height, left : left + width])
    expected = torch.from_numpy(np.array(part.resize((64, 64), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    assert levels_apart(crop(photo, 0, 5), expected.flip(2) if mirrored else expected) <= 1


def test_very_long_images_are_resized_bilinearly_too(photo):
    image = photo[:, 200:240]  # 40 x 640: the crop alone is resized
    rows = as_pillow(image).resize((576, 40), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(rows.resize((576, 36), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    found = TestCrops(32, 4, interpolation="bilinear")(image)[0]
    apart = (found.int() - expected[:, 2:34, 272:304].int()).abs()
    assert apart.max() <= 2 and (apart == 2).float().mean() < 0.01  # two passes, each rounded by its own rule
    assert levels_apart(found, TestCrops(32, 4)(image)[0]) > 5


def test_draws_are_those_of_the_standard_training_crop(photo):
    cfg = load_config("digits_lt", "clip_tiny", "lift+", ["tte", "True", "tte_draws", "6", "seed", "3"])
    assert cfg.mda
    crops = build_test_crops(cfg, 64)
    standard = TrainCrop(64, seed=3, num_epochs=cfg.num_epochs, mda=False)
    expected = torch.stack([standard(photo, FIRST_DRAW + draw, 7) for draw in range(6)])
    assert torch.equal(crops(photo, 0, 7), expected)
    assert len({part.numpy().tobytes() for part in expected}) == 6
    small = photo[:, :40, :40]
    batch = torch.stack([small, small.flip(1)])
    each = torch.stack([crops(image, 0, index) for image, index in zip(batch, (4, 9), strict=True)])
    assert torch.equal(crops.of_batch(batch, [(0, 4), (0, 9)]), each)
    assert centre_crop(crops) == TestCrops(64, 0)


def test_draws_decode_as_large_as_the_largest_crop_needs():
    crop = TrainCrop(224, seed=0, num_epochs=1, mda=False, reducing_gap=1.0)
    one = [crop.reduction(2000, 3000, FIRST_DRAW + draw, 1) for draw in range(8)]
    assert len(set(one)) > 1
    assert TestDraws(crop, 8).reduction(2000, 3000, 0, 1) == min(one)


def test_the_mean_over_draws_is_tested(config):
    run, _ = train(config("num_epochs", 1))
    tested, results = train(
        config("num_epochs", 1, "test_only", "True", "tte", "True", "tte_draws", 2, "save_logits", "True")
    )
    assert results["test"]["draws"] == results["test"]["crops"] == 2
    found = np.load(run.run_dir.path / "logits_tte_draws2.npz")["logits"]
    images, model = run.data.test.images, tested.model.eval()
    with torch.inference_mode():
        for index in (0, 123):
            crops = tested.test_crops(images.read(index), 0, index)
            np.testing.assert_allclose(model(crops).mean(0).numpy(), found[index], rtol=1e-4, atol=1e-4)


# ---- the first head ----


@pytest.mark.parametrize("limit", [1, 3, None])
def test_random_images_of_each_class(limit):
    labels = np.array([0] * 20 + [1] * 2 + [2] * 50)
    images = ImageList.of_paths([str(i) for i in range(len(labels))], labels)
    first, drawn = images.some_of_each(3, limit), images.some_of_each(3, limit, seed=0)
    counts = np.minimum([20, 2, 50], limit or 50)
    for indices in (first, drawn):
        assert np.bincount(labels[indices]).tolist() == counts.tolist()
        assert len(set(indices.tolist())) == len(indices)
    assert np.array_equal(drawn, images.some_of_each(3, limit, seed=0))
    assert np.array_equal(first, drawn) == (limit is None)
    assert limit is None or not np.array_equal(drawn, images.some_of_each(3, limit, seed=1))


def test_class_means_of_all_images(config):
    run, _ = train(config("classifier_init", "class_mean", "classifier_init_images", "None", "num_epochs", 1, "lr", 0))
    clip, _ = load_backbone("clip_vit", run.cfg.weights)
    images = torch.from_numpy(run.data.train.images.pixels).permute(0, 3, 1, 2)
    crops = F.interpolate(images, 32, mode="bicubic", antialias=True)
    mean, std = (torch.tensor(constant).view(3, 1, 1) for constant in (clip.mean, clip.std))
    with torch.no_grad():
        features = clip.image((crops / 255 - mean) / std)
    labels = torch.from_numpy(run.data.train.labels)
    assert (labels == 0).sum() == 124  # more than LIFT+'s 100
    for c in (0, 9):
        assert_near(run.model.head.weight[c].detach(), F.normalize(features[labels == c].mean(0), dim=0))


# ---- prompts ----


@pytest.fixture(scope="module")
def clip_pair(tmp_path_factory):
    return helpers.clip_pair(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def sentences(tmp_path):
    """{class name: sentences}, and the file that holds them."""
    texts = {
        name: [f"{name} is the first.", f"this is {name}, a second one"][: i + 1] for i, name in enumerate(NAMES[:2])
    }
    texts[NAMES[2]] = ["a large bird", "it flies", "its beak is yellow"]
    file = tmp_path / "sentences.json"
    file.write_text(json.dumps(texts))
    return texts, str(file)


def by_open_clip(theirs, texts):
    """The unit vector of the mean of the texts' unit vectors, by open_clip's own text tower; `_` is a space."""
    with torch.no_grad():
        features = theirs.encode_text(tokenize([text.replace("_", " ") for text in texts]), normalize=True)
    return F.normalize(features.mean(0), dim=0)


@pytest.mark.parametrize("prompt", ["default", "classname", "ensemble", "descriptor"])
def test_each_prompt_is_its_mean_by_open_clip(prompt, clip_pair, sentences):
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    theirs, ours = clip_pair
    texts, file = sentences
    expected = {
        "default": lambda name: [f"a photo of a {name}."],
        "classname": lambda name: [name],
        "ensemble": lambda name: [template(name) for template in OPENAI_IMAGENET_TEMPLATES],
        "descriptor": texts.__getitem__,
    }[prompt]
    assert len(OPENAI_IMAGENET_TEMPLATES) == 80
    rows = torch.stack([by_open_clip(theirs, expected(name)) for name in NAMES])
    given = class_texts(NAMES, prompt, file)
    assert_near(ours.encode_texts(NAMES, given), rows)
    start = HEAD_INITS["semantic"](ours, NAMES, None, texts=given)
    assert_near(start, F.normalize(rows @ theirs.visual.proj.detach().T, dim=-1))


def test_zero_shot_with_an_ensemble_is_open_clips(clip_pair):
    from open_clip import build_zero_shot_classifier

    theirs, ours = clip_pair
    texts = class_texts(NAMES, "ensemble")
    head = TextSimilarity(_fixed(ours.encode_texts(NAMES, texts)), ours.image_projection, None, ours.logit_scale)
    images = helpers.normal_images(3, helpers.CLIP_RESOLUTION)
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    with torch.no_grad():
        spaced = [name.replace("_", " ") for name in NAMES]
        weights = build_zero_shot_classifier(theirs, tokenize, spaced, OPENAI_IMAGENET_TEMPLATES, device="cpu")
        expected = theirs.logit_scale.exp() * theirs.encode_image(images, normalize=True) @ weights
        assert_near(head(ours.image(images)), expected)


def _fixed(features):
    from models.heads.texts import CachedTextFeatures

    return CachedTextFeatures(features)


@pytest.mark.parametrize("method", ["zs", "lift+"])
def test_a_run_reads_its_prompt(method, config):
    """Another prompt, another result; the same command twice, the same one."""
    found = {}
    for prompt in ("default", "classname", "ensemble"):
        run, _ = train(config("prompt", prompt, "num_epochs", 1, "lr", 0, "save_logits", "True", method=method))
        found[prompt] = np.load(run.run_dir.path / "logits_test.npz")["logits"]
    assert not np.allclose(found["default"], found["classname"])
    assert not np.allclose(found["default"], found["ensemble"])


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        "null",
        '{"zero": "a text"}',
        '{"zero": []}',
        '{"zero": [" "]}',
        '{"zero": ["x"]}',
    ],
)
def test_sentences_that_do_not_fit_are_refused(content, tmp_path):
    file = tmp_path / "s.json"
    if content is not None:
        file.write_text(content)
    with refused(ModelError):
        class_texts(NAMES, "descriptor", str(file))


def test_other_sentences_are_another_run(config, tmp_path):
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    file = tmp_path / "s.json"
    options = ("prompt", "descriptor", "prompt_file", file, "num_epochs", 1, "output_dir", "run")
    file.write_text(json.dumps({name: [name] for name in names}))
    train(config(*options))
    file.write_text(json.dumps({name: [name, "digit"] for name in names}))
    with refused(CheckpointError):
        train(config(*options))


# ---- groups and scores ----


def counts_of(data):
    return {group: int(mask.sum()) for group, mask in data.groups.items()}


@pytest.mark.parametrize("name", ["cifar100_ir100", "cifar100_ir50", "cifar100_ir10"])
def test_lifts_groups_are_those_of_imbalance_100(name, monkeypatch):
    pixels, classnames = np.zeros((50_000, 1, 1, 3), np.uint8), [f"class {c}" for c in range(100)]
    whole = ImageList.of_pixels(pixels, np.repeat(np.arange(100), 500))
    monkeypatch.setattr(cifar100_lt, "_load", lambda root, train: (whole, classnames))
    ir100 = [int(500 * 0.01 ** (c / 99)) for c in range(100)]
    expected = {"many": sum(n > 100 for n in ir100), "medium": sum(20 <= n <= 100 for n in ir100)}
    lift = build_data(load_config(name, None, "clip_vit_b16", []))
    assert counts_of(lift) == expected | {"few": 100 - sum(expected.values())} == {"many": 35, "medium": 35, "few": 30}
    own = build_data(load_config(name, "clip_vit_b16", "lift+", []))
    assert (counts_of(own) == counts_of(lift)) == (name == "cifar100_ir100")
    assert ("imbalance 100" in lift.summary()) == (name != "cifar100_ir100")


def test_lifts_harmonic_mean_has_a_floor():
    labels, predictions = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 1, 0, 0])  # 100, 50 and 0 percent

    def harmonic_mean(floor):
        classes = ClassInfo(["a", "b", "c"], np.array([2, 2, 1]), {}, floor)
        return evaluate((), predictions, labels, classes)["more"]["harmonic_mean"]

    assert harmonic_mean(0.0) == 0
    assert harmonic_mean(1e-3) == pytest.approx(3 / (1 / 100 + 1 / 50 + 1 / 1e-3))


# ---- a start from another run ----


def test_training_starts_from_another_runs_tensors(config):
    first, _ = train(config("num_epochs", 1))
    options = ("num_epochs", 1, "lr", 0, "model_dir", first.run_dir.path, "loss_type", "CE")
    second, _ = train(config(*options))
    assert second.run_dir.path.name.endswith(f"_from_{first.run_dir.path.name}")
    files = [run.run_dir.path / "checkpoint.safetensors" for run in (first, second)]
    tensors = [checkpoint.load(file)[0] for file in files]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    with refused(CheckpointError):
        train(config(*options, "v.lora", "True"))


def test_another_start_is_another_run(config):
    first, _ = train(config("num_epochs", 1))
    options = ("num_epochs", 1, "model_dir", first.run_dir.path, "output_dir", "second")
    train(config(*options))
    tensors, about = checkpoint.load(first.run_dir.checkpoint)
    checkpoint.save(first.run_dir.checkpoint, {name: value + 1 for name, value in tensors.items()}, about)
    with pytest.raises(CheckpointError) as caught:  # with its hash, so not in the golden file
        train(config(*options))
    assert (caught.value.kind, caught.value.key) == ("other_identity", "start")


def test_a_start_that_is_not_there(config):
    with refused(CheckpointError):
        train(config("model_dir", "nowhere"))


# ---- descriptions that change ----


def test_a_checkpoint_belongs_to_a_description_of_its_weights(config, tmp_path):
    theirs = open_clip_model()
    state = {name: value.contiguous() for name, value in theirs.state_dict().items() if name != "attn_mask"}
    save_file(state, tmp_path / "w.safetensors")
    options = ["weights", tmp_path / "w.safetensors", "heads", 2, "mean", "half", "output_dir", "run", "num_epochs", 1]
    train(config(*options, "activation", "gelu", method="lp"))
    with refused(CheckpointError):
        train(config(*options, "activation", "quick_gelu", "test_only", "True", method="lp"))
