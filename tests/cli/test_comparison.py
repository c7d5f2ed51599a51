"""`graphprune compare`: every option of the library has one, the help teaches, progress says how long."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from graphprune.cli import comparison
from graphprune.cli.comparison import compare_command, run_compare, with_time_left
from graphprune.cli.main import run
from graphprune.comparison.options import CompareOptions
from graphprune.errors import InterruptedRunError


def test_every_option_of_the_library_is_one_of_the_command_and_has_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[CompareOptions] = []

    def stop(options: CompareOptions) -> Any:
        asked.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("graphprune.comparison.compare.prepare", stop)
    line = ["compare", "demo", "--methods", "taylor, x=taylor{order=2,aggregate=vector}+uniform", "--targets", "80%,1M"]
    line += ["--data", "a.txt", "--held-out", "b.txt", "-o", "out"]
    assert run(line) == 130
    methods = ("taylor", "x=taylor{order=2,aggregate=vector}+uniform")
    plain = CompareOptions("demo", methods, ("80%", "1M"), data="a.txt", held_out="b.txt", out=Path("out"))
    assert asked == [plain]
    line += ["--train-tokens", "0,1M", "--set", "recover.lr=1e-3", "--set", "stages=2", "--no-bos", "--bytes", "100"]
    assert run([*line, "--tokens", "50", "--seeds", "3", "--tasks", "piqa,boolq", "--jobs", "2"]) == 130
    found = asked[1]
    assert (found.train_tokens, found.settings) == (("0", "1M"), ("recover.lr=1e-3", "stages=2"))
    assert (found.bos, found.text_bytes, found.text_tokens, found.seeds) == (False, 100, 50, 3)
    assert (found.tasks, found.jobs) == (("piqa", "boolq"), 2)
    assert set(inspect.signature(compare_command).parameters) == {f.name for f in fields(CompareOptions)} | {"as_json"}


def test_the_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("Examples", "What a row is", "What is fair about it", "the same command goes on"):
        assert words in shown


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphprune.comparison.compare.compare", stop)
    options = CompareOptions("demo", ("taylor",), ("80%",), data="a.txt", held_out="b.txt", out=Path("out"))
    with pytest.raises(InterruptedRunError, match="the same command goes on from out, with --restart it begins again"):
        run_compare(options)


def test_progress_says_how_much_longer_it_takes() -> None:
    told: list[tuple[Any, ...]] = []
    now = [0.0]
    clock: Callable[[], float] = lambda: now[0]  # noqa: E731
    tell = with_time_left(lambda *said, **_: told.append(said), clock)
    tell("comparing", 0, 8, "dense: measuring")
    now[0] = 60.0
    tell("comparing", 2, 8, "taylor: pruning")
    tell("comparing", 8, 8)
    assert [said[3] for said in told] == ["dense: measuring", "about 3 min left, taylor: pruning", ""]
    assert comparison.LISTS.keys() <= {field.name for field in fields(CompareOptions)}
