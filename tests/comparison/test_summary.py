"""Rows: means over seeds, what may be compared, what is best; and their tables."""

import pytest

from graphprune.comparison.schema import Cell, Row
from graphprune.comparison.summary import by_table, main_metric, make_row, make_rows, mark_best, mean_of, spread
from graphprune.comparison.tables import all_tables, details, overview, perplexity, protocol_words, scores, shorter
from tests.support.compared import cell, made_up, measured


def row_of(*cells: Cell) -> Row:
    return make_row(cells, "m", "80%", 0, ())


def test_a_row_is_the_mean_of_its_seeds_with_their_spread() -> None:
    row = row_of(*(cell("m", "80%", seed, measured=measured(800, 1.0 + seed, 800)) for seed in range(3)))
    assert row.bits_per_byte is not None
    assert (row.bits_per_byte.mean, row.bits_per_byte.deviation) == (2.0, 1.0)
    assert (row.bits_per_byte.least, row.bits_per_byte.most) == (1.0, 3.0)
    assert row.perplexity == pytest.approx(2.718281828**4.0), (
        "of the mean loss: a mean of perplexities is its worst seed"
    )
    assert row.seeds == 3
    assert spread([5.0]) == spread([5.0])
    assert spread([]) is None


@pytest.mark.parametrize(
    ("parameters", "state", "note"),
    [
        (800_000, "ok", ""),
        (792_001, "ok", ""),
        (800_001, "above", "refused: 0.01% more parameters than the target"),
        (816_000, "above", "refused: 2.00% more parameters than the target"),
        (780_000, "below", "2.5% fewer parameters than the target allows"),
    ],
)
def test_a_row_has_the_parameters_that_were_asked_for(parameters: int, state: str, note: str) -> None:
    row = row_of(
        cell("m", "80%", 0, measured=measured(800_000, 1.0, 800_000)),
        cell("m", "80%", 1, measured=measured(parameters, 1.0, 800_000)),
    )
    assert (row.state, row.note) == (state, note)


def test_what_is_above_or_failed_is_never_best_and_what_is_below_may_be() -> None:
    good = {name: measured(800, bits, 800) for name, bits in (("ok", 2.0), ("broken", 0.5))}
    rows = [
        make_row([cell("ok", "80%", 0, measured=good["ok"])], "ok", "80%", 0, ()),
        make_row([cell("above", "80%", 0, measured=measured(801, 1.0, 800))], "above", "80%", 0, ()),
        make_row([cell("below", "80%", 0, measured=measured(700, 1.9, 800))], "below", "80%", 0, ()),
        make_row(
            [cell("broken", "80%", 0, measured=good["broken"]), cell("broken", "80%", 1, error="why")],
            "broken",
            "80%",
            0,
            (),
        ),
    ]
    assert [row.state for row in rows] == ["ok", "above", "below", "failed"]
    assert [row.best for row in mark_best(rows)] == [False, False, True, False]
    assert rows[3].note == "seed 1: why"
    assert rows[3].seeds == 1


def test_a_row_without_any_cell_that_worked_has_no_numbers() -> None:
    row = row_of(cell("m", "80%", 0, error="why"))
    assert (row.state, row.note, row.bits_per_byte, row.perplexity, row.peak) == ("failed", "why", None, None, None)


def test_a_mean_of_what_is_partly_missing_is_missing() -> None:
    assert mean_of([1.0, 3.0]) == 2.0
    assert mean_of([1.0, None]) is None
    assert mean_of([]) is None


def test_the_accuracy_of_a_task_comes_before_its_other_metrics() -> None:
    plain = measured(8, 1.0).tasks[0]
    other = plain.model_copy(update={"metric": "acc_norm"})
    assert main_metric([other, plain], plain.task) == plain
    assert main_metric([other], plain.task) == other
    assert main_metric([], plain.task) is None


def test_dense_and_a_guess_stand_in_every_table() -> None:
    comparison = made_up()
    tables = list(all_tables(comparison))
    assert len(tables) == 2 * (1 + 3 * 2), "an overview and two for each size, for each number of tokens"
    for table in tables:
        assert [row[0].text for row in table.rows[:2]] == ["dense", "uniform guess"]
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_the_overview_marks_the_best_and_refuses_what_is_above() -> None:
    table = overview(made_up(), 0)
    looks = {row[0].text: [entry.look for entry in row[1:]] for row in table.rows}
    assert looks["magnitude"] == ["", "", "bad"]
    assert looks["adapt-pruner"] == ["best", "best", "best"]
    assert table.rows[-1][3].text.endswith("†")
    assert table.notes == (
        "magnitude at 40%: refused: 2.25% more parameters than the target",
        "† adapt-pruner at 40%: 3.8% fewer parameters than the target allows",
    )


def test_the_details_say_size_quality_and_cost() -> None:
    comparison = made_up(seeds=1)
    rows = by_table(comparison.rows)[131_072, "80%"]
    table = details(comparison, 131_072, "80%", rows)
    assert table.columns == (
        "method",
        "parameters",
        "bits per byte",
        "perplexity",
        "cut, s",
        "training, s",
        "peak memory",
    )
    assert table.rows[2][1].text == "799,960 (80.00 %)"
    assert table.rows[2][5].text == "40 (40)"
    assert table.rows[1][3].text == "512", "a guess among all tokens"
    refused = details(comparison, 0, "40%", by_table(comparison.rows)[0, "40%"]).rows[2]
    assert [entry.text for entry in refused[2:4]] == ["refused", "-"]


def test_the_memory_of_a_gpu_has_a_column_where_it_is_known() -> None:
    plain = made_up(seeds=2)
    assert "peak on the GPU" not in details(plain, 0, "80%", by_table(plain.rows)[0, "80%"]).columns
    assert "GPU" not in " ".join(protocol_words(plain))
    peaks = [None if c.method == "magnitude" else (3 + c.seed) << 30 for c in plain.cells]
    cells = [
        c.model_copy(update={"measured": c.measured.model_copy(update={"device": "cuda:0", "device_peak": peak})})
        for c, peak in zip(plain.cells, peaks, strict=True)
        if c.measured is not None
    ]
    rows = make_rows(cells, [m.name for m in plain.methods], plain.targets, plain.train_tokens, plain.text.tasks)
    found = plain.model_copy(update={"cells": cells, "rows": rows})
    for tokens in plain.train_tokens:
        table = details(found, tokens, "80%", by_table(rows)[tokens, "80%"])
        assert table.columns[-2:] == ("peak memory", "peak on the GPU")
        # The dense model and a guess, one of cells from before, and the most over seeds.
        assert [row[-1].text for row in table.rows] == ["-", "-", "-", "4.00 GiB", "4.00 GiB"]
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert protocol_words(found)[-1].endswith("On the GPU it is that of tensors.")


def test_accuracies_are_beside_what_chance_gets() -> None:
    comparison = made_up()
    table = scores(comparison, 0, "40%", by_table(comparison.rows)[0, "40%"])
    assert table.columns == ("method", "arc_easy", "piqa", "mean")
    assert [entry.text for entry in table.rows[1]] == ["uniform guess", "0.250", "0.500", "0.375"]
    assert {entry.text for entry in table.rows[2][1:]} == {"-"}, "what is above its target is not compared here either"
    assert {entry.look for entry in table.rows[4][1:]} == {"best"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "in windows of 256 behind the tokenizer's first token, that share nothing."),
        ({"bos": False}, "in windows of 256 without special tokens, each behind the token before."),
        ({"bos": False, "stride": 256}, "in windows of 256 without special tokens, that share nothing."),
        ({"stride": 128}, "in windows of 256 behind the tokenizer's first token, of which 127 are seen before."),
    ],
)
def test_the_protocol_is_said(changes: dict[str, object], words: str) -> None:
    comparison = made_up()
    text = comparison.text.model_copy(update=changes)
    said = " ".join(protocol_words(comparison.model_copy(update={"text": text})))
    assert words in said
    assert "Reported on val.txt, its first 100,000 bytes: 1,000 tokens predicted" in said
    assert "512 windows of 64 tokens, the same for all methods at one seed" in said
    assert "200 items of each" in said


def test_numbers_are_short() -> None:
    assert [perplexity(value) for value in (None, 5.517, 29.602, 477_000.0)] == ["infinite", "5.52", "29.6", "477,000"]
    assert [shorter(value) for value in (0.26, 12.4, 1234.5)] == ["0.3", "12", "1,234"]
