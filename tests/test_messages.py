"""messages.json has the messages of existing tests only."""

import cases
import helpers


def test_every_message_is_of_a_test(request):
    """Only files that were collected as a whole are judged; pytest --update-messages drops the other messages."""
    assert helpers.stale_messages(request.config.args) == []


def test_a_message_of_no_test_is_found(monkeypatch):
    monkeypatch.setattr(cases, "FULL", True)
    monkeypatch.setattr(
        helpers, "COLLECTED", {"tests/test_messages.py::test_here", "tests/test_main.py::test_there[a]"}
    )
    keys = ["test_main.py::test_there[a]", "test_main.py::test_there[a] #2", "test_main.py::test_there[b]"]
    keys += ["test_gone.py::test_here", "utils/test_files.py::test_not_collected", "test_messages.py::test_here #2"]
    monkeypatch.setattr(helpers, "_messages", lambda: {f"tests/{key}": "words" for key in keys})
    assert helpers.stale_messages(["tests"]) == ["tests/test_main.py::test_there[b]", "tests/test_gone.py::test_here"]
    assert helpers.stale_messages(["tests/test_main.py::test_there[a]"]) == ["tests/test_gone.py::test_here"]

    monkeypatch.setattr(cases, "FULL", False)  # test_there[b] may be one that was not chosen
    assert helpers.stale_messages(["tests"]) == ["tests/test_gone.py::test_here"]
