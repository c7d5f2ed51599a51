"""`graphprune verify`: every check is shown, and those that failed are named and end the command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from graphprune.cli.artefacts import verify_command
from graphprune.cli.looks import REFERENCE
from graphprune.errors import ParityError, UsageError
from graphprune.running.comparison import Check

Capture = pytest.CaptureFixture[str]
Outcome = Callable[..., Path]


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Outcome:
    """A folder whose comparison, which takes a process of its own, ends as it is told."""

    def make(*passed: bool) -> Path:
        checks = [Check("onnx", f"check {n}", float("inf"), 1e-4, 1.0, good) for n, good in enumerate(passed)]
        answers = {tmp_path: checks}
        (tmp_path / REFERENCE).parent.mkdir(exist_ok=True)
        (tmp_path / REFERENCE).touch()
        monkeypatch.setattr("graphprune.artefacts.parity.check", lambda folder, _: answers[folder])
        return tmp_path

    return make


def test_all_that_pass_are_listed_and_nothing_is_raised(outcome: Outcome, capsys: Capture) -> None:
    out = outcome(True, True)
    verify_command(out)
    printed = capsys.readouterr()
    assert [f"check {n}" in printed.out for n in range(3)] == [True, True, False]
    assert "BROKEN" not in printed.out
    assert f"checking {out}" in printed.err


@pytest.mark.parametrize("as_json", [False, True])
def test_those_that_fail_are_named_after_all_were_shown(as_json: bool, outcome: Outcome, capsys: Capture) -> None:
    with pytest.raises(ParityError) as caught:
        verify_command(outcome(True, False, False), as_json)
    assert str(caught.value) == "2 of 3 checks failed: onnx check 1, onnx check 2; compile it again"
    printed = capsys.readouterr().out
    assert all(f"check {n}" in printed for n in range(3))
    if as_json:
        data = json.loads(printed)
        assert (data["passed"], [check["passed"] for check in data["checks"]]) == (False, [True, False, False])
        assert data["checks"][0]["difference"] is None, "infinity has no JSON form"
    else:
        assert printed.count("BROKEN") == 2


def test_passing_is_said_in_json_too(outcome: Outcome, capsys: Capture) -> None:
    out = outcome(True)
    verify_command(out, as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert (data["out"], data["passed"], len(data["checks"])) == (str(out), True, 1)


def test_a_folder_that_is_not_there_is_refused_before_anything_runs(tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(UsageError, match="no folder at"):
        verify_command(tmp_path / "none")
    assert capsys.readouterr().err == ""
