"""Text for people: characters that could harm a terminal or a line are escaped, and every script stays readable."""

import pytest

from utils.errors import UserError
from utils.text import BIDI, brief, duration, listed, rate, shortened, significant, visible, wrapped


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("two\nlines\r\tand a tab", "two\\nlines\\r\\tand a tab"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("photo\u202egpj.exe", "photo\\u202egpj.exe"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_obeys_is_escaped(text, expected):
    assert visible(text) == expected
    assert visible(expected) == expected


@pytest.mark.parametrize(
    "text",
    ["", "plain", "Straße, 日本語, עברית, العربية, हिन्दी", "no-break\xa0space", "می\u200cخواهم", "👩\u200d🔬 e\u0301"],
)
def test_names_of_every_script_stay(text):
    assert visible(text) == text


def test_all_marks_of_direction_are_escaped():
    """Those of Unicode's property Bidi_Control."""
    listed = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
    assert {ord(sign) for sign in BIDI} == set(listed)
    assert not any(sign in visible("".join(BIDI)) for sign in BIDI)


def test_a_text_of_several_lines_keeps_them():
    assert visible("one\ntwo\x07", keep="\n") == "one\ntwo\\x07"


def test_errors_are_one_harmless_line():
    error = UserError("the image a\nb\x1b]0;x\x07.jpg is missing", path="a\nb\x1b]0;x\x07.jpg")
    assert str(error) == "the image a\\nb\\x1b]0;x\\x07.jpg is missing"
    assert error.path == "a\nb\x1b]0;x\x07.jpg"


def test_the_beginning_of_content_costs_no_more_than_that():
    """A list that would have 10^30 letters."""
    bomb = ["lol"]
    for _ in range(30):
        bomb = [bomb] * 10
    assert brief(bomb, 40) == "[" * 31 + '"lol"], [['[:9]
    assert brief({"a": [1, "ä"]}) == '{"a": [1, "ä"]}'


@pytest.mark.parametrize(
    "value, shown",
    [
        (0, "0"),
        (0.42, "0.42"),
        (0.00421, "0.00421"),
        (1.5, "1.5"),
        (99.96, "100"),
        (1234.4, "1,234"),
        (1e-9, "1.000e-09"),
    ],
)
def test_small_numbers_are_not_zero(value, shown):
    assert significant(value) == shown


@pytest.mark.parametrize(
    "seconds, shown",
    [
        (0.042, "0.042 s"),
        (42, "42 s"),
        (100, "1 min 40 s"),
        (5999, "99 min 59 s"),
        (6000, "1 h 40 min"),
        (1e6, "277 h 46 min"),
    ],
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown


def test_slow_rates_have_the_time_of_an_image():
    assert rate(1234.5) == "1,234 images/s"
    assert rate(0.75) == "0.75 images/s"
    assert rate(0.002) == "0.002 images/s (8 min 20 s per image)"
    assert rate(0.0) == "0 images/s"


def test_long_texts_lack_their_middle():
    assert shortened("a" * 50 + "b" * 4900 + "c" * 50) == "a" * 50 + "..." + "c" * 50
    assert shortened("short") == "short"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


@pytest.mark.parametrize(
    ("line", "indent"),
    [
        ("data      " + "eight of them, " * 30, 10),
        (" " * 10 + "a second note " * 20, 10),
        ("warning   the file output/a/very/" + "long/" * 30 + "path is missing " + "and so on " * 10, 10),
        ("epoch 3/10  validation  " + "overall 95.20, " * 20, 2),
        ("macro F1 95.22, worst class 84.00, " * 5, 2),
    ],
)
@pytest.mark.parametrize("columns", [80, 40])
def test_long_lines_are_wrapped_between_words(line, indent, columns):
    first, *later = wrapped(line, columns).split("\n")
    assert later
    assert [word for part in (first, *later) for word in part.split()] == line.split()
    assert all(part.startswith(" " * indent) and part[indent] != " " for part in later)
    assert first[:10] == line[:10]
    assert all(len(part) <= columns or len(part.split()) <= 2 for part in (first, *later))


@pytest.mark.parametrize(
    "line",
    [
        "short",
        "$ python main.py -d digits_lt " + "v.lora True " * 20,
        "results   " + "output/a folder with spaces/" * 5 + "results.json",
        "report    " + "/home/some body/" * 8 + "report.html",
        "start     " + "output/a b/" * 10,
        "| " + "| ".join(["95.48 ± 0.67"] * 12),
    ],
)
def test_commands_paths_and_tables_stay_whole(line):
    assert wrapped(line, 80) == line
