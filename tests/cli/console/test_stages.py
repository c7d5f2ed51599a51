"""Progress on stderr: lines that come at least every fifteen seconds, bars whose clocks stop, no thread left behind."""

import io
import threading
import time

import pytest
from rich.console import Console
from rich.progress import Progress as Bars
from rich.text import Text

from graphprune.cli.console.estimate import Estimate
from graphprune.cli.console.stages import QUIET, Lines, StageBars, progress_on_stderr, title


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def silent_lines() -> tuple[Lines, list[str], Clock]:
    """Lines whose thread was not started."""
    out, clock = list[str](), Clock()
    return Lines(Estimate({}, 0.0), out.append, clock), out, clock


def test_a_stage_is_a_line_and_how_it_goes_another_when_time_has_passed() -> None:
    lines, out, clock = silent_lines()
    lines("reading")
    for second in range(40):
        clock.now = 101.0 + second
        lines("training", 1000 * second, 40_000, "loss 3.2", (2, 3))
    assert out == [
        "reading",
        "2/3 training",
        "2/3 training, 15,000 of 40,000, loss 3.2, 15 s, about 20 s left",
        "2/3 training, 30,000 of 40,000, loss 3.2, 30 s, about 20 s left",
    ]


def test_a_stage_that_says_nothing_is_spoken_for_and_the_thread_ends() -> None:
    found, before = list[str](), threading.active_count()
    with Lines(Estimate({"exporting": 100.0}, 0.0), found.append, quiet=0.05) as lines:
        lines("exporting", 1, 4, "onnx")
        deadline = time.monotonic() + 20
        while len(found) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert found[0] == "exporting"
    assert all(line.startswith("exporting, 1 of 4, onnx, 0 s, about") for line in found[1:3])
    assert threading.active_count() == before
    assert QUIET <= 15


def test_the_thread_ends_with_an_error_too() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="invalid literal"), Lines(Estimate({}, 0.0)):
        int("no number")
    assert threading.active_count() == before


def test_a_stderr_that_nobody_reads_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stderr", closed)
    lines = Lines(Estimate({}, 0.0))
    lines("reading")
    lines("writing")


def bars_of() -> tuple[StageBars, Bars]:
    bars = Bars(console=Console(file=io.StringIO(), force_terminal=True), disable=True)
    return StageBars(bars, Estimate({}, 0.0)), bars


def test_each_stage_has_a_bar_whose_clock_stops_and_that_is_full_when_it_ends() -> None:
    stages, bars = bars_of()
    stages("reading")
    stages("tokenising", 30, 100)
    stages("pruning [bold]", 1, 4, "batch")
    reading, tokenising, pruning = bars.tasks
    assert (reading.stop_time is None, tokenising.stop_time is None, pruning.stop_time is None) == (False, False, True)
    assert reading.finished
    assert (tokenising.completed, tokenising.total) == (100, 100)
    assert Text.from_markup(pruning.description).plain == "pruning [bold], batch"


def test_a_stage_that_comes_back_goes_on_in_its_bar() -> None:
    stages, bars = bars_of()
    for stage, done in (("pruning", 1), ("compensating", 0), ("pruning", 2)):
        stages(stage, done, 4)
    assert [task.completed for task in bars.tasks] == [2, 4]
    assert bars.tasks[0].stop_time is None
    assert bars.tasks[1].stop_time is not None


def test_without_a_terminal_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_on_stderr() as progress:
        progress("reading the model")
        progress("writing", 1, 2, "onnx")
    assert capsys.readouterr().err == "reading the model\nwriting\n"


def test_a_part_is_named_where_there_are_several() -> None:
    assert (title("pruning", (1, 1)), title("pruning", (2, 5))) == ("pruning", "2/5 pruning")
