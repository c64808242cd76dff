"""The files of a tokenizer: next to the weights, from the hub, or one sentence that names the missing file."""

import contextlib
import hashlib
import os
import shutil

import pytest
import torch
from helpers import private_hub, refused, web_server
from text_towers import KINDS, TOKENIZERS

from models.backbones.text import TextConfig
from models.backbones.tokenizer import ClipTokenizer
from models.weights.tokenizer_files import build_tokenizer, find_files
from utils.errors import ModelError

REPOSITORY = "someone/reads"
FILES = ("tokenizer.json", "tokenizer_config.json")
TEXTS = ["a photo of a golden eagle", "it's a FOX."]
CONFIG = TextConfig(64, 1, 64, 900, tokenizer=REPOSITORY, clean="canonicalize")


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """serve(kind, *names) -> a context in which a hub has these files of TOKENIZERS; yields the files asked for."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    use = private_hub(monkeypatch, tmp_path)

    @contextlib.contextmanager
    def start(kind, *names):
        pages = {f"/{REPOSITORY}/resolve/main/{name}": (TOKENIZERS / kind / name).read_bytes() for name in names}
        headers = {"X-Repo-Commit": "0" * 40, "X-Error-Code": "EntryNotFound"}
        with web_server(pages, headers, etag=lambda content: hashlib.sha1(content).hexdigest()) as (address, asked):
            use(address)
            yield asked

    return start


def weights(tmp_path, kind=None):
    """The path of a weight file, with or without a tokenizer in its folder."""
    folder = tmp_path / "weights"
    folder.mkdir()
    if kind:
        shutil.copytree(TOKENIZERS / kind, folder, dirs_exist_ok=True)
    return folder / "w.safetensors"


def expected(kind):
    folder = TOKENIZERS / kind
    return build_tokenizer(CONFIG, folder / "w.safetensors")(TEXTS)


def test_files_beside_the_weights_are_read_and_the_hub_is_not_asked(serve, tmp_path):
    with serve("t5", *FILES) as asked:
        tokenizer = build_tokenizer(CONFIG, weights(tmp_path, "gemma"))
        assert torch.equal(tokenizer(TEXTS), expected("gemma"))
        assert asked == []


def test_files_are_fetched_at_the_first_text_and_once(serve, tmp_path):
    path = weights(tmp_path)
    with serve("t5", *FILES) as asked:
        tokenizer = build_tokenizer(CONFIG, path)
        assert asked == []
        assert torch.equal(tokenizer(TEXTS), expected("t5"))
        assert {os.path.basename(file) for file in asked} >= set(FILES)
    assert torch.equal(build_tokenizer(CONFIG, path)(TEXTS), expected("t5"))  # the server is off


def test_a_tokenizer_without_a_configuration_is_one(serve, tmp_path):
    with serve("t5", FILES[0]):
        found = find_files(REPOSITORY, tmp_path)
    assert found.config is None
    assert found.tokenizer.read_bytes() == (TOKENIZERS / "t5" / FILES[0]).read_bytes()


@pytest.mark.parametrize("other", [None, "sentencepiece.bpe.model", "vocab.txt"])
def test_a_repository_without_tokenizer_json_is_refused_by_its_kind(other, serve, tmp_path):
    path = weights(tmp_path)
    if other:
        path.with_name(other).write_bytes(b"x")
    with serve("t5"), refused(ModelError, kind="unsupported_tokenizer", path=path.with_name(FILES[0])):
        build_tokenizer(CONFIG, path)(TEXTS)


def test_a_hub_out_of_reach_is_one_sentence(serve, tmp_path):
    with serve("t5"):
        pass
    path = weights(tmp_path)
    with refused(ModelError, kind="download_failed", path=path.with_name(FILES[0])):
        build_tokenizer(CONFIG, path)(TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_clips_own_needs_no_file(kind, tmp_path):
    config = KINDS[kind][1]
    tokenizer = build_tokenizer(config, tmp_path / "w.safetensors")
    assert isinstance(tokenizer, ClipTokenizer) == (not config.tokenizer)
    assert tokenizer.context == config.context
