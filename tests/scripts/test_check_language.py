"""scripts/check_language.py: what it finds in each kind of file, and what it leaves alone."""

from pathlib import Path

import pytest
from check_language import HABITS, files_of_the_project, main, search

BAD = {  # sentence: the habit
    "Of several pages the first counts.": "fronted Of",
    "It is read. Of a long list the end is cut.": "fronted Of",
    "What is damaged counts as missing.": "what as a noun",
    "This depends on what is in memory.": "what as a noun",
    "A copy of what the run has.": "what as a noun",
    "The log says so.": "things that speak",
    "Files know names alone.": "things that speak",
    "The list tells their order.": "things that speak",
    "It is no text file.": "is no",
    "They are no\nimages.": "is no",
    "It is written anew.": "unusual verb",
    "The run goes on.": "unusual verb",
    "It stands in the list.": "unusual verb",
    "Called PEL in its preprint.": "former name",
}
GOOD = (
    "Of course it resumes.",
    "What is a long tail? Few classes have most images.",
    "This page shows what a run writes.",
    "There is no such file.",
    "It is no longer read.",
    "It stands for a class.",
    "LIFT was first released as PEL.",
    "Several pages of one file.",
)
FORMS = {
    "page.md": "# Title\n\n{}\n",
    "docstring.py": '"""{}"""\n',
    "comment.py": "x = 1  # {}\n",
    "string.py": 'raise ValueError("{}")\n',
    "script.sh": "#!/bin/sh\n# {}\necho\n",
    "keys.yaml": "# {}\nkey: 1\n",
    "Makefile": "# {}\nall:\n",
}


def written(form, sentence):
    """The text of a file with the sentence; lines of a comment begin with #, and a string has one line."""
    gap = {"string.py": " "}.get(form, "\n" if form in ("page.md", "docstring.py") else "\n# ")
    return FORMS[form].format(sentence.replace("\n", gap))


@pytest.mark.parametrize("form", FORMS)
def test_every_habit_is_found_in_every_kind_of_file(form):
    for sentence, habit in BAD.items():
        assert [found.habit.name for found in search(form, written(form, sentence))] == [habit], sentence
    assert {*BAD.values()} == {habit.name for habit in HABITS}


@pytest.mark.parametrize("form", FORMS)
def test_ordinary_sentences_are_left_alone(form):
    assert [sentence for sentence in GOOD if search(form, written(form, sentence))] == []


def test_code_is_left_alone():
    assert search("a.py", "anew = file.tell()\n") == []
    assert search("a.md", "Run `x is no y`:\n\n```\nOf anew\n```\n\nDone.\n") == []


def test_a_name_is_allowed_in_its_file():
    assert search("scripts/run_pel.sh", "# PEL\n") == []
    assert main([str(Path(__file__))]) == 0  # it is exempt


def test_lines_and_exit_status(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("One line.\n\nThe file is\nno page.\n")
    assert main([str(page)]) == 1
    assert capsys.readouterr().out == f'{page}:3: "The file is no page.": write "is not a"\n'
    assert main(["--count", str(page)]) == 1
    assert "    1  is no\n" in capsys.readouterr().out
    page.write_text("One line.\n")
    assert main([str(page)]) == 0


def test_the_files_are_those_of_the_project():
    names = {path.name for path in files_of_the_project()}
    assert {"README.md", "main.py", "Makefile", "trainer.py", "run_main.sh", "report.html"} <= names
