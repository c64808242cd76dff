"""Token ids against open_clip's: CLIP's byte pairs in any context, and tokenizers of files, as its HFTokenizer's."""

import json
import shutil

import open_clip
import pytest
import torch
from helpers import refused
from text_towers import TOKENIZERS

from models.backbones.file_tokenizer import CONFIG_JSON, TOKENIZER_JSON, Files, FileTokenizer
from models.backbones.text_notes import text_notes
from models.backbones.tokenizer import ClipTokenizer, tokenize
from utils.errors import ModelError

# README.md in its folder: how it was created
EXPECTED = json.loads((TOKENIZERS / "expected.json").read_text(encoding="utf-8"))
TEXTS = EXPECTED["texts"]


def load(folder, context=64, clean="canonicalize"):
    config = folder / CONFIG_JSON
    return FileTokenizer(lambda: Files(folder / TOKENIZER_JSON, config if config.exists() else None), context, clean)


def changed(folder, kind, file, **values):
    """A copy of a tokenizer, with other values in one of its files; None removes a key."""
    shutil.copytree(TOKENIZERS / kind, folder, dirs_exist_ok=True)
    content = json.loads((folder / file).read_text()) | values
    (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder


# ---- CLIP's ----


@pytest.mark.parametrize("clean", ["lower", "canonicalize", "whitespace"])
@pytest.mark.parametrize("context", [8, 32, 77])
def test_clips_ids_are_open_clips_in_any_context(context, clean):
    theirs = open_clip.get_tokenizer("ViT-B-16", context_length=context, clean=clean)
    ours = ClipTokenizer(context, clean)
    assert torch.equal(ours(TEXTS), theirs(TEXTS))
    assert ours(TEXTS).dtype == torch.int64
    assert torch.equal(ours.ends(ours(TEXTS)), theirs(TEXTS).argmax(1))  # where open_clip pools
    assert torch.equal(ours([]), theirs([]))


def test_an_underscore_is_a_space():
    for tokenizer in (tokenize, load(TOKENIZERS / "t5", clean="whitespace")):
        assert torch.equal(tokenizer(["tree_frog"]), tokenizer(["tree frog"]))


# ---- files ----


@pytest.mark.parametrize("row", EXPECTED["rows"], ids=lambda row: f"{row['kind']}-{row['clean']}-{row['context']}")
def test_ids_are_those_of_open_clips_hf_tokenizer(row):
    tokenizer = load(TOKENIZERS / row["kind"], row["context"], row["clean"])
    assert tokenizer(TEXTS).tolist() == row["ids"]
    for text, ids, end in zip(TEXTS, row["ids"], tokenizer.ends(tokenizer(TEXTS)).tolist(), strict=True):
        assert ids.index(tokenizer.frame.behind[0]) == end
        framed = [*tokenizer.frame.before, *tokenizer.read(text), *tokenizer.frame.behind]
        assert tokenizer.is_cut(text) == (len(framed) > row["context"])


def test_the_cleaning_matters():
    cleanings = ("canonicalize", "lower", "whitespace")
    ids = [load(TOKENIZERS / "gemma", clean=clean).read("It's a Fox.") for clean in cleanings]
    assert len(set(map(tuple, ids))) == 3


def test_nothing_is_read_before_the_first_text():
    asked = []

    def find():
        asked.append(1)
        return Files(TOKENIZERS / "gemma" / TOKENIZER_JSON, TOKENIZERS / "gemma" / CONFIG_JSON)

    tokenizer = FileTokenizer(find, 64)
    assert asked == []
    tokenizer(["a"])
    tokenizer(["b"])
    assert asked == [1]


@pytest.mark.parametrize(
    "values, before, behind",
    [
        ({"add_bos_token": True, "add_eos_token": True}, (2,), (1,)),
        ({"add_bos_token": True, "add_eos_token": None}, (2,), (1,)),
        ({"add_bos_token": None, "add_eos_token": None}, (), (1,)),
        ({"add_bos_token": True, "bos_token": {"content": "<unk>"}}, (3,), (1,)),
        ({"eos_token": "<bos>"}, (), (2,)),
    ],
)
def test_the_configuration_decides_about_start_and_end(values, before, behind, tmp_path):
    tokenizer = load(changed(tmp_path, "gemma", CONFIG_JSON, **values), context=6)
    assert tokenizer.frame == (before, behind, 0)
    ids = load(TOKENIZERS / "gemma").read("golden eagle fox cat dog")
    row = [*before, *ids[: 6 - len(before) - 1], *behind]
    assert tokenizer(["golden eagle fox cat dog"]).tolist() == [row]


def test_the_padding_is_the_configurations_or_the_files(tmp_path):
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 3}
    padding |= {"pad_type_id": 0, "pad_token": "<unk>"}
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    folder = changed(tmp_path, "gemma", TOKENIZER_JSON, padding=padding, truncation=truncation)
    expected = load(TOKENIZERS / "gemma", context=32)(TEXTS)
    assert torch.equal(load(folder, context=32)(TEXTS), expected)  # the lengths in the file are ignored
    (folder / CONFIG_JSON).unlink()
    tokenizer = load(folder, context=32)
    assert tokenizer.frame.padding == 3
    assert torch.equal(tokenizer(TEXTS), expected.where(expected != 0, 3))


@pytest.mark.parametrize(
    "values, kind",
    [
        ({"padding_side": "left"}, "unsupported_tokenizer"),
        ({"truncation_side": "left"}, "unsupported_tokenizer"),
        ({"add_eos_token": False}, "unsupported_tokenizer"),
        ({"pad_token": None}, "unsupported_tokenizer"),
        ({"pad_token": "<nothing>"}, "unsupported_tokenizer"),
        ({"pad_token": 7}, "unsupported_tokenizer"),
    ],
)
def test_tokenizers_of_other_kinds_are_refused(values, kind, tmp_path):
    folder = changed(tmp_path, "gemma", CONFIG_JSON, **values)
    with refused(ModelError, kind=kind, path=folder / TOKENIZER_JSON):
        load(folder)(["a"])


def test_a_file_that_pads_on_the_left_is_refused(tmp_path):
    padding = {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "<pad>"}
    folder = changed(tmp_path, "t5", TOKENIZER_JSON, padding=padding)
    with refused(ModelError, kind="unsupported_tokenizer", path=folder / TOKENIZER_JSON):
        load(folder)(["a"])


@pytest.mark.parametrize(
    "file, content",
    [
        (TOKENIZER_JSON, ""),
        (TOKENIZER_JSON, "{}"),
        (TOKENIZER_JSON, "[1, 2]"),
        (TOKENIZER_JSON, (TOKENIZERS / "gemma" / TOKENIZER_JSON).read_text(encoding="utf-8")[:4000]),
        (CONFIG_JSON, "{"),
        (CONFIG_JSON, "[]"),
    ],
)
def test_damaged_files_are_refused(file, content, tmp_path):
    shutil.copytree(TOKENIZERS / "gemma", tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text(content, encoding="utf-8")
    with refused(ModelError, kind="damaged_tokenizer", path=tmp_path / file):
        load(tmp_path)(["a"])


def test_a_template_without_its_token_is_refused(tmp_path):
    """There the package panics, which is not an Exception."""
    template = json.loads((TOKENIZERS / "t5" / TOKENIZER_JSON).read_text(encoding="utf-8"))["post_processor"]
    folder = changed(tmp_path, "t5", TOKENIZER_JSON, post_processor=template | {"special_tokens": {}})
    with refused(ModelError, kind="damaged_tokenizer", path=folder / TOKENIZER_JSON):
        load(folder)(["a"])


def test_a_vocabulary_without_an_unknown_token_is_refused_where_it_needs_one(tmp_path):
    model = json.loads((TOKENIZERS / "t5" / TOKENIZER_JSON).read_text(encoding="utf-8"))["model"]
    folder = changed(tmp_path, "t5", TOKENIZER_JSON, model=model | {"unk_id": None})
    load(folder)(["a fox"])
    with refused(ModelError, kind="damaged_tokenizer", path=folder / TOKENIZER_JSON):
        load(folder)(["漢字"])


def test_an_unknown_cleaning_is_refused():
    with refused(ModelError, kind="unknown_cleaning"):
        FileTokenizer(lambda: Files(TOKENIZERS, None), 64, "sparkling")


def test_notes_are_of_the_tokenizer():
    """SigLIP's ignores punctuation and reads 64 tokens."""
    tokenizer = load(TOKENIZERS / "gemma")
    cut, nothing, same = text_notes(tokenizer, ["dog", "golden eagle " * 40, "...", "Fox", "f.o.x"])
    assert cut.startswith("1 of 5 classes: the text tower cuts the text after 64 tokens ('golden eagle")
    assert nothing.startswith("1 of 5 classes: the text tower reads nothing of the name ('...')")
    assert same.startswith("2 of 5 classes: the text tower reads the same text as for another one")
    assert "('Fox', 'f.o.x')" in same
    assert text_notes(ClipTokenizer(), ["dog", "...", "Fox", "f.o.x"]) == []
    (cut,) = text_notes(ClipTokenizer(32), ["dog", "golden eagle " * 15])
    assert cut.startswith("1 of 2 classes: CLIP cuts the text after 32 tokens")
