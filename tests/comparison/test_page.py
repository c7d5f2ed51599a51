"""compare.html and compare.md: one file each, safe whatever names hold, with nothing cut off."""

import itertools
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from graphprune.comparison.page import (
    against_seconds,
    compare_markdown,
    compare_page,
    escaped,
    short,
    without_far_guess,
)
from graphprune.comparison.plots import (
    COLOURS,
    Level,
    Plot,
    Series,
    draw_plot,
    kept_apart,
    legend,
    powers,
    scales,
    ticks_of,
)
from graphprune.reporting.charts import NARROW, WIDE, Frame
from tests.support.compared import cell, made_up, measured

MANY = tuple(f"method-{number}" for number in range(13))


def test_the_page_is_one_file_that_fetches_and_runs_nothing() -> None:
    page = compare_page(made_up(MANY))
    assert not re.search(r"<script|<link|https?://|@import|url\(| on\w+=", page)
    plots = re.findall(r'<svg class="(wide|narrow)"', page)
    assert len(plots) == 12, "quality, accuracy and seconds, for two numbers of tokens, in two frames"
    assert page.count("<table>") == 15
    for drawing in re.findall(r"<svg.*?</svg>", page):
        ElementTree.fromstring(drawing)


def test_names_are_text_wherever_they_stand() -> None:
    name = "<b>&'\"|x*"
    page, lines = compare_page(made_up((name, "taylor"))), compare_markdown(made_up((name, "taylor")))
    assert "<b>" not in page
    assert "&lt;b>&'\"\\|x\\*" in lines


def test_without_tasks_there_are_no_accuracies() -> None:
    page = compare_page(made_up(tasks=()))
    assert "ccuracy" not in page


def test_where_everything_failed_there_is_a_page_all_the_same() -> None:
    comparison = made_up(("magnitude",), ("80%",), (0,), 1)
    failed = cell("magnitude", "80%", 0, error="why")
    rows = [comparison.rows[0].model_copy(update={"state": "failed", "note": "why", "bits_per_byte": None})]
    empty = comparison.model_copy(update={"cells": [failed], "rows": rows})
    page = compare_page(empty)
    assert "failed" in page
    assert "<svg class" not in page
    assert "| magnitude | *failed* |" in compare_markdown(empty)
    assert against_seconds(empty, []) is None


def test_the_markdown_has_command_versions_date_and_protocol() -> None:
    text = compare_markdown(made_up())
    assert "    graphprune compare tiny --methods magnitude,taylor,adapt-pruner\n" in text
    assert "date 2026-11-28; machine x86_64, 2 processors; graphprune 0.1.0." in text
    assert "Reported on val.txt" in text
    assert "| method | at 80% | at 60% | at 40% |\n|---|---:|---:|---:|\n| dense | 0.634 |" in text
    assert "**" in text
    assert not re.search(r"\n\n\n", text)


def plot(points: int = 3, logarithmic: bool = False) -> Plot:
    series = tuple(Series(name, i, tuple((10.0**n, 1.0 + n + i) for n in range(points))) for i, name in enumerate(MANY))
    ticks = tuple((10.0**n, f"{10**n:,} parameters") for n in range(points))
    return Plot("a plot", "size", series, (Level("dense", 0.5), Level("guess", 20.0)), ticks, logarithmic)


@pytest.mark.parametrize("frame", [WIDE, NARROW], ids=lambda frame: frame.name)
@pytest.mark.parametrize("logarithmic", [False, True])
def test_everything_lies_within_the_frame(frame: Frame, logarithmic: bool) -> None:
    drawing = ElementTree.fromstring(draw_plot(plot(logarithmic=logarithmic), frame))
    for node in drawing.iter():
        for name in ("x", "cx", "x1", "x2"):
            assert 0 <= float(node.get(name, 0)) <= frame.width
        for name in ("y", "cy", "y1", "y2"):
            assert 0 <= float(node.get(name, 0)) <= 300
        if node.tag == "text":
            half, x = 6.2 * len(node.text or ""), float(node.get("x", 0))
            left = {"start": x, "middle": x - half / 2, "end": x - half}[node.get("text-anchor", "start")]
            assert left >= -1, f"{node.text} is cut off"
            assert left + half <= frame.width + 1, f"{node.text} is cut off"


def test_a_guess_that_is_far_above_is_said_and_not_drawn() -> None:
    far, near = replace(plot(), levels=(Level("uniform guess", 90.0),)), replace(plot(), levels=(Level("dense", 0.5),))
    drawn, note = without_far_guess(far)
    assert drawn.levels == ()
    assert note == "A uniform guess, 90.00, lies above what is shown."
    assert without_far_guess(near) == (near, "")
    low = replace(plot(), levels=(Level("uniform guess", 0.25), Level("dense", 30.0)))
    assert without_far_guess(low) == (low, "")


def test_words_of_ticks_do_not_lie_over_each_other() -> None:
    kept = kept_apart(plot(8), NARROW, scales(plot(8), NARROW))
    assert kept[0][1] == "10,000,000 parameters"
    ends = [(x - len(words) * 3.1, x + len(words) * 3.1) for x, words in kept]
    assert all(right[0] >= left[1] for right, left in itertools.pairwise(ends))


def test_one_point_alone_is_drawn() -> None:
    alone = Plot("one", "size", (Series("a", 0, ((5.0, 1.0),)),), (), ((5.0, "5"),))
    assert draw_plot(alone, WIDE).count("<circle") == 1


def test_ticks_are_round_numbers() -> None:
    assert ticks_of(0.634, 3.09) == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert ticks_of(1.0, 1.0) == [1.0]
    assert [words for _, words in powers([0.4, 11.0])] == ["0.5", "1", "2", "5", "10"]
    assert [words for _, words in powers([0.4, 1100.0])] == ["1", "10", "100", "1,000"]


def test_marks_differ_where_colours_come_again() -> None:
    shown = legend(MANY)
    assert shown.count("<circle") == COLOURS
    assert shown.count("<rect") == len(MANY) - COLOURS


def test_sizes_are_short() -> None:
    assert [short(count) for count in (134_515_008, 3_148_224, 260_032, 900)] == ["135M", "3.15M", "260k", "900"]


def test_a_cell_of_a_table_is_one_line() -> None:
    assert escaped("a\nb | c") == "a b \\| c"
    assert measured(1, 1.0).tasks
