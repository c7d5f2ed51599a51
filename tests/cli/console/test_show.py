"""What the commands print: ratios and differences."""

import pytest

from graphprune.cli.console.show import print_checks, print_result, print_table, ratio, small
from graphprune.evaluation.measure import Measure
from graphprune.reporting.results import Result
from graphprune.reporting.verdict import Verdict
from graphprune.running.comparison import Check


@pytest.mark.parametrize(("before", "after", "text"), [(4.0, 1.0, "0.250"), (None, 1.0, ""), (0.0, 1.0, "")])
def test_a_ratio_is_of_two_measured_values(before: float | None, after: float, text: str) -> None:
    assert ratio(Measure("file", before, after)) == text


def test_a_difference_is_printed_to_one_digit() -> None:
    assert (small(0.000123), small(None)) == ("1.2e-04", "")


def test_what_to_do_is_said_once_an_artefact(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("prefill", "cached steps")
    coarse = [Check("onnx-int4", name, 0.2, 1.0, 1.0, True, advice="take more bits") for name in names]
    print_checks([*coarse, Check("onnx", "prefill", 0.0, 1.0, 1.0, True), Check("x", "prefill", 2.0, 1.0, 1.0, False)])
    printed = capsys.readouterr().out
    assert [printed.count(word) for word in ("with care", "ok", "BROKEN", "take more bits")] == [3, 1, 1, 1]
    assert "onnx-int4, with care: take more bits\n" in printed


def test_the_verdict_stands_on_top_and_the_seconds_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    told = Measure("decode", None, None, note="not told: runs were 40% apart")
    print_result(Result(None, (told,), verdict=Verdict("kept", "1 bit"), report={"seconds": 12.0}), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "quality kept: 1 bit"
    assert any("not told: runs were 40% apart" in line for line in lines)


def test_a_column_that_nothing_stands_in_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Title", ("a", "", "b"), [("1", "", "2")], left=(0, 1))
    assert capsys.readouterr().out.splitlines()[2] == "1  2"
