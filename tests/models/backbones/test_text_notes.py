"""The warnings about class names that CLIP cannot read or distinguish."""

import re

import open_clip
import pytest
from helpers import execute
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

from datasets.sets import digits_lt
from models.backbones.text_notes import text_notes
from models.backbones.tokenizer import ClipTokenizer
from trainer import Trainer


def tokens(name, template="a photo of a {}."):
    """As open_clip's own tokenizer reads a class, `_` being a space."""
    return tuple(open_clip.tokenize([template.format(name.replace("_", " "))])[0].tolist())


CLIP = ClipTokenizer()
FIVES = ["four five", "four_five", "Four Five", "four five ", " four  five", "four&nbsp;five", "four\tfive"]


@pytest.mark.parametrize("other", FIVES[1:])
def test_names_of_one_text_are_reported(other):
    assert tokens(other) == tokens(FIVES[0])
    (note,) = text_notes(CLIP, ["dog", FIVES[0], "cat", other])
    assert note == (
        "2 of 4 classes: CLIP reads the same text as for another one, and zero_shot cannot distinguish them "
        f"({FIVES[0]!r}, {other!r}); set distinct names in a classnames file"
    )


def test_all_names_of_one_text_are_counted_side_by_side():
    names = ["a", *FIVES[:3], "b", "A", "c"]
    (note,) = text_notes(CLIP, names)
    assert note.startswith(
        "5 of 7 classes: CLIP reads the same text as for another one, and zero_shot cannot distinguish them "
        "('a', 'A', 'four five' and 2 more)"
    )


def test_names_that_only_look_alike_are_reported():
    """CLIP has a token for the invisible zero-width space."""
    for name in ("cat\u200b", "c\u200dat", "\u2060cat"):
        (note,) = text_notes(CLIP, ["cat", "dog", name])
        if tokens(name) == tokens("cat"):
            assert "CLIP reads the same text" in note
        else:
            assert note.startswith(
                "2 of 3 classes: the name differs from another one in invisible characters alone ('cat'"
            )
    assert text_notes(CLIP, ["می\u200cخواهم", "dog"]) == []  # as in written Persian


# characters without a glyph that are not of category Cf, and one that is
UNSEEN = [
    *range(0xFE00, 0xFE10),
    *range(0xE0100, 0xE01F0),
    0x034F,
    0x115F,
    0x1160,
    0x3164,
    *range(0x180B, 0x1810),
    0xAD,
]


def test_all_characters_without_a_glyph_are_known():
    for code in UNSEEN:
        name = f"c{chr(code)}at"
        notes = text_notes(CLIP, ["dog", "cat", name])
        if tokens(name) == tokens("cat"):
            assert "CLIP reads the same text" in notes[0]
        else:
            assert notes[0].startswith(
                "2 of 3 classes: the name differs from another one in invisible characters alone"
            )
            assert f"('cat', 'c{ascii(chr(code))[1:-1]}at')" in notes[0]  # the difference is visible in the message
    for seen in ("\u0301", "\u0903", "\u06dd", "\u3000x", "\U0001f600"):  # marks, a sign of category Cf, a picture
        assert text_notes(CLIP, ["dog", "cat", f"c{seen}at"]) == []


END = "<end&#95;of&#95;text>"  # CLIP's end token in a name; with `_`, which becomes a space, it is text like any other


def test_texts_are_compared_up_to_the_end_token():
    """The tower reads the state at the first end token, and a name can contain one."""
    for names in ([f"red {END} fox", f"red {END} eel"], [f"red {END}", f"Red{END} z"]):
        first, second = map(tokens, names)
        end = first.index(max(first))  # position of the state in open_clip's text tower
        assert end == second.index(max(second)) < len(tokens("red")) - 2
        assert first[: end + 1] == second[: end + 1] and first != second
        (note,) = text_notes(CLIP, ["dog", *names])
        assert note.startswith("2 of 3 classes: CLIP reads the same text as for another one")
    assert text_notes(CLIP, [f"red {END} fox", f"blue {END} fox"]) == []
    assert text_notes(CLIP, ["red <end_of_text> fox", "red <end_of_text> eel"]) == []
    (note,) = text_notes(CLIP, ["dog", f"{END} fox"])
    assert note.startswith(f"1 of 2 classes: CLIP reads nothing of the name ('{END} fox')")
    assert text_notes(CLIP, ["dog", f"cat {END}" + " fox" * 80]) == []  # nothing after it is read, so nothing is cut


@pytest.mark.parametrize("name", ["&nbsp;", "_", " ", "&#32;"])
def test_a_name_of_nothing_is_reported(name):
    assert tokens(name) == tokens("")
    (note,) = text_notes(CLIP, ["dog", name])
    assert note.startswith(f"1 of 2 classes: CLIP reads nothing of the name ({name!r}); set readable names")


def test_a_text_is_cut_after_77_tokens_and_not_before():
    """A name of n words, each one token: the prompt has five more, start and end."""
    for words, cut in ((69, False), (70, False), (71, True), (200, True)):
        name = " ".join(["cat"] * words)
        assert (len(open_clip.get_tokenizer("ViT-B-16").encode(f"a photo of a {name}.")) + 2 > 77) == cut
        notes = text_notes(CLIP, ["dog", name])
        assert len(notes) == cut
        assert not cut or re.match(
            r"1 of 2 classes: CLIP cuts the text after 77 tokens \('cat .{33}\.\.\.'\); set short", notes[0]
        )


def test_names_that_differ_behind_the_cut_are_one_text():
    names = [" ".join(["cat"] * 80 + [end]) for end in ("dog", "fox")]
    assert tokens(names[0]) == tokens(names[1])
    cut, same = text_notes(CLIP, [*names, "eel"])
    assert cut.startswith("2 of 3 classes: CLIP cuts the text")
    assert same.startswith("2 of 3 classes: CLIP reads the same text")


def test_other_prompts_are_asked_for():
    """Names alone, 80 templates, or descriptions."""
    long = "It has " + "very " * 80 + "long ears."
    described = {"hare": ["It has ears.", long], "rabbit": ["It has ears.", "It is small."], "mole": ["It digs."]}
    (note,) = text_notes(CLIP, list(described), described.__getitem__)
    assert note.startswith("1 of 3 classes: CLIP cuts the text after 77 tokens ('hare')")
    same = {
        "hare": ["It has ears.", "It runs."],
        "rabbit": ["It has  ears.", "it runs."],
        "mole": ["It has ears.", "It digs."],
    }
    (note,) = text_notes(CLIP, list(same), same.__getitem__)
    assert note.startswith("2 of 3 classes: CLIP reads the same text as for another one, ")
    assert "('hare', 'rabbit')" in note
    (note,) = text_notes(CLIP, ["a", "A", "b"], lambda name: [name])
    assert note.startswith("2 of 3 classes: CLIP reads the same text")
    (note,) = text_notes(CLIP, ["a", "A", "b"], lambda name: [template(name) for template in OPENAI_IMAGENET_TEMPLATES])
    assert note.startswith("2 of 3 classes: CLIP reads the same text")


def test_published_names():
    """open_clip's names of ImageNet's classes have two pairs of equal ones; those of the digits are distinct."""
    (note,) = text_notes(CLIP, IMAGENET_CLASSNAMES, renamable=False)
    twice = sorted({name for name in IMAGENET_CLASSNAMES if IMAGENET_CLASSNAMES.count(name) > 1})
    assert twice == ["missile", "sunglasses"]
    assert note == (
        "4 of 1,000 classes: CLIP reads the same text as for another one, and zero_shot cannot distinguish them "
        "('missile', 'missile', 'sunglasses' and 1 more)"
    )
    assert text_notes(CLIP, digits_lt.CLASSNAMES) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, method, reported",
    [
        ((), "zs", True),
        ((), "lift+", True),
        ((), "coop", True),
        (("l.bitfit", True, "classifier", None, "v.adaptformer", False), "lift+", True),
        (("classifier_init", "class_mean"), "lift+", False),
    ],
)
def test_runs_report_it_where_they_read_names(options, method, reported, config, monkeypatch, capsys):
    monkeypatch.setattr(digits_lt, "CLASSNAMES", ["zero", "Zero", *digits_lt.CLASSNAMES[2:]])
    run = Trainer(config("num_epochs", 1, *options, method=method))
    execute(run)
    sentence = (
        "2 of 10 classes: CLIP reads the same text as for another one, and zero_shot cannot distinguish them "
        "('zero', 'Zero')\n"
    )
    assert capsys.readouterr().out.count(sentence) == reported
    assert (run.run_dir.path / "log.txt").read_text().count(sentence) == reported
    if method == "lift+" and not options:
        execute(Trainer(config("num_epochs", 1, "test_only", True)))
        assert sentence not in capsys.readouterr().out  # the head is loaded, and no name is read
