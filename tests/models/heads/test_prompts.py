"""Prompts: each is the mean of its texts by open_clip, runs read them, and unsuitable sentences are errors."""

import json

import helpers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_near, refused, train

from models.backbones.tokenizer import tokenize
from models.heads import HEAD_INITS
from models.heads.prompts import class_texts
from models.heads.text_similarity import TextSimilarity
from utils.errors import CheckpointError, ModelError

NAMES = ["zero", "tree_frog", "golden eagle"]


@pytest.fixture(scope="module")
def clip_pair(tmp_path_factory):
    return helpers.clip_pair(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def sentences(tmp_path):
    """{class name: sentences}, and the file with them."""
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
    start = HEAD_INITS["semantic"](ours, NAMES, None, texts=given).weight
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


@pytest.mark.slow
@pytest.mark.parametrize("method", ["zs", "lift+"])
def test_a_run_reads_its_prompt(method, config, few_images):
    """Another prompt, another result."""
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
        pytest.param("[" * 100_000, id="deep list"),
        pytest.param('{"a":' * 100_000, id="deep mapping"),
        '["\\ud800"]',
        '{"zero": ["half \\ud800 a pair"], "one": ["x"]}',
        pytest.param(f'{{"zero": {5000 * "9"}}}', id="many digits"),
    ],
)
def test_sentences_that_do_not_fit_are_refused(content, tmp_path):
    file = tmp_path / "s.json"
    if content is not None:
        file.write_text(content)
    with refused(ModelError):
        class_texts(NAMES, "descriptor", str(file))


def test_other_sentences_are_another_run(config, few_images, tmp_path):
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    file = tmp_path / "s.json"
    options = ("prompt", "descriptor", "prompt_file", file, "num_epochs", 1, "output_dir", "run")
    file.write_text(json.dumps({name: [name] for name in names}))
    train(config(*options))
    file.write_text(json.dumps({name: [name, "digit"] for name in names}))
    with refused(CheckpointError):
        train(config(*options))
