"""Names and texts of others reach the terminal as text alone."""

import ast
import io
import sys

import pytest

from graphprune.cli.console.show import print_table
from graphprune.cli.console.stages import progress_on_stderr
from graphprune.cli.console.terminal import say, visible, warn
from graphprune.cli.main import report
from tests.support.tree import SOURCES, TREES

HARM = "\x1b]0;title\x07\x1b[2J\x9b31m\r\u202etxt"


def test_control_characters_are_shown_as_numbers() -> None:
    assert visible("a\x1b[2J\nb\tc") == "a\\x1b[2J\nb\tc"
    assert visible("\ud800") == "\\xd800"
    assert visible("naïve 日本 👩‍👩‍👧") == "naïve 日本 👩‍👩‍👧"


def test_everything_that_prints_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    say(HARM)
    warn(HARM)
    report(HARM, 2)
    with progress_on_stderr() as progress:
        progress(HARM, 1, 2, HARM)
    print_table(HARM, (HARM, HARM), [(HARM, HARM)])
    found = capsys.readouterr()
    for text in found:
        assert "title" in text
        assert not {"\x1b", "\x9b", "\r", "\x07", "\u202e"} & set(text)


# What prints without `say` and `warn`: those two, help and version, which are ours, and JSON, which escapes by itself.
PRINTING = {"graphprune.cli.console.terminal": 2, "graphprune.cli.main": 2, "graphprune.cli.console.show": 1}


@pytest.mark.parametrize("name", sorted(name for name in SOURCES if name.startswith("graphprune.cli.")))
def test_nothing_prints_past_the_one_place(name: str) -> None:
    calls = [node.func for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    printing = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
    writing = [call for call in calls if isinstance(call, ast.Attribute) and ast.unparse(call).startswith("sys.std")]
    assert len(printing) == PRINTING.get(name, 0)
    assert not [call for call in writing if ast.unparse(call).endswith(".write")]


def test_a_line_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal between the text and its end would join it to the error that follows."""
    written: list[str] = []
    stream = io.StringIO()
    monkeypatch.setattr(stream, "write", written.append)
    monkeypatch.setattr(sys, "stderr", stream)
    warn("reading the model")
    assert [text for text in written if text] == ["reading the model\n"]
