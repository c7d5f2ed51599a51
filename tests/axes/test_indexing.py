"""Indexing: which axis an integer tensor points into, and what follows where that axis loses entries."""

import math

from graphprune.axes.rules.indexing import RULES
from tests.support.one_call import Inferred
from tests.support.rule_samples import b, f, i, s


def test_a_table_gives_its_columns_and_numbers_its_padding_anew() -> None:
    seen = Inferred(RULES, s("embedding", f(5, 3), i([0, 4], [2, 2]), 3))
    (rows, columns), ids = seen.operands()
    assert seen.result() == (*ids, columns)
    assert seen.resized({rows: [0, 2, 3]}) == {"padding_idx": 2}
    assert seen.resized({rows: [0, 2]}) == {"padding_idx": -1}
    assert Inferred(RULES, s("embedding", f(5, 3), i(0, 4))).resized({}) == {}


def test_computed_indices_lock_what_they_pick_from_and_nothing_else() -> None:
    seen = Inferred(RULES, s("index.Tensor", f(4, 3, 2), [None, i(0, 2)]))
    a, picked, c = seen.operands()[0]
    assert seen.locks() == {picked: "picked from by computed indices in aten.index"}
    assert seen.result() == (a, *seen.operands()[1], c)


def test_indices_that_stand_apart_come_first() -> None:
    seen = Inferred(RULES, s("index.Tensor", f(4, 3, 2), [i(0, 2), None, i(1, 1)]))
    source, first, second = seen.operands()
    assert first == second
    assert seen.result() == (*first, source[1])


def test_a_mask_locks_all_that_it_picks_from() -> None:
    seen = Inferred(RULES, s("index.Tensor", f(3, 2), [b(3)]))
    assert set(seen.locks()) == {*seen.operands()[0], *seen.result()}
    assert set(seen.locks().values()) == {"picked from by a mask"}


def test_gather_runs_with_its_source_but_for_the_dimension_that_it_picks_along() -> None:
    seen = Inferred(RULES, s("gather", f(3, 4), 1, i([0, 1], [3, 3], [1, 2])))
    source, index = seen.operands()
    assert source[0] == index[0]
    assert seen.result() == index
    part = Inferred(RULES, s("gather", f(3, 4), 1, i([0, 1], [2, 2])))
    rows = {part.operands()[0][0], part.operands()[1][0]}
    assert {axis for axis, why in part.locks().items() if why == "gathered from a part of it"} == rows


def test_the_best_are_counted_by_an_axis_of_their_own_and_no_more_are_asked_for_than_it_has() -> None:
    seen = Inferred(RULES, s("topk", f(3, 5), 2))
    rows, columns = seen.operands()[0]
    (choice,) = seen.inference.choices
    slots = seen.algebra.find(choice.slots)  # type: ignore[arg-type]
    assert seen.result() == ((rows, slots), (rows, slots))
    assert (seen.algebra.find(choice.axis), choice.picks) == (columns, True)
    assert seen.reduced() == [(columns, -math.inf, "the best ones are chosen from it")]
    assert seen.resized({slots: [0]}) == {"k": 1}
    assert seen.resized({columns: [0, 1, 2]}) == {"k": 2}
    worst = Inferred(RULES, s("topk", f(3, 5), 2, 1, False))
    assert [neutral for _, neutral, _ in worst.reduced()] == [math.inf]


def test_added_rows_run_with_the_index_and_count_for_nothing_where_they_are_zero() -> None:
    seen = Inferred(RULES, s("index_add", f(4, 3), 0, i(3, 1), f(2, 3)))
    target, index, source = seen.operands()
    assert index == source[:1]
    assert target[1] == source[1]
    assert [(axis, neutral) for axis, neutral, _ in seen.reduced()] == [(source[0], 0.0)]
    assert seen.result() == target


def test_padding_and_windows_lock_the_dimension_that_they_change() -> None:
    padded = Inferred(RULES, s("pad", f(6, 3), [0, 0, 1, 0]))
    assert set(padded.locks()) == {padded.operands()[0][0], padded.result()[0]}
    assert padded.result()[1] == padded.operands()[0][1]
    windows = Inferred(RULES, s("unfold", f(3, 6, 2), 1, 4, 1))
    a, cut, c = windows.operands()[0]
    assert set(windows.locks()) == {cut, windows.result()[1], windows.result()[3]}
    assert (windows.result()[0], windows.result()[2]) == (a, c)


def test_a_made_tensor_follows_what_it_meets_and_a_counted_one_is_locked() -> None:
    made = Inferred(RULES, s("full", [2, 3], 1.0))
    rows, columns = made.result()
    assert made.resized({rows: [1], columns: [0, 2]}) == {"size": [1, 2]}
    assert made.locks() == {}
    counted = Inferred(RULES, s("arange", 5))
    assert counted.locks() == {counted.result()[0]: "positions are counted along it"}


def test_classes_of_computed_numbers_are_locked() -> None:
    seen = Inferred(RULES, s("one_hot", i([0, 2], [1, 1]), 3))
    assert seen.locks() == {seen.result()[2]: "made by one_hot of computed indices"}
    assert seen.resized({}) == {}
