"""The command line of a sweep: every option of the library is one of the command, and the help teaches."""

import dataclasses
from pathlib import Path

import pytest

from graphprune.cli.main import run
from graphprune.cli.sweeping import PANELS, run_sweep
from graphprune.errors import InterruptedRunError
from graphprune.sweeping.options import SweepOptions


def test_every_option_has_a_place_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    named = {name for names in PANELS.values() for name in names}
    assert named | {"model", "out", "trust_remote_code"} == {field.name for field in dataclasses.fields(SweepOptions)}
    assert run(["sweep", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("--targets", "--effort", "--bytes", "--restart", "points/60%/plan.json"):
        assert option in shown


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphprune.sweeping.sweep.sweep", stopped)
    monkeypatch.setattr("graphprune.sweeping.sweep.check_sweep", lambda _: None)
    with pytest.raises(InterruptedRunError, match="goes on from out"):
        run_sweep(SweepOptions("demo", targets="80%", out=Path("out")))
