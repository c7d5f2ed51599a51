"""Elementwise calls: operands are aligned at their last dimension, and dimensions of full size that meet are one."""

import pytest

from graphprune.axes.rules.elementwise import RULES
from tests.support.one_call import Inferred
from tests.support.rule_samples import b, elementwise, f, s


def test_operands_are_aligned_at_their_last_dimension() -> None:
    seen = Inferred(RULES, s("add.Tensor", f(2, 3, 4), f(3, 4)))
    left, right = seen.operands()
    assert left[1:] == right
    assert seen.result() == left
    assert len(set(left)) == 3


def test_a_dimension_of_one_says_nothing_about_a_larger_one() -> None:
    seen = Inferred(RULES, s("mul.Tensor", f(2, 1), f(1, 3)))
    (rows, one), (other, columns) = seen.operands()
    assert seen.result() == (rows, columns)
    assert len({rows, one, other, columns}) == 4


def test_two_dimensions_of_one_are_the_same() -> None:
    seen = Inferred(RULES, s("sub.Tensor", f(1, 3), f(1, 3)))
    left, right = seen.operands()
    assert left == right == seen.result()


def test_three_operands_are_related_to_each_other() -> None:
    seen = Inferred(RULES, s("where.self", b(3), f(2, 3), f(2, 1)))
    condition, first, second = seen.operands()
    assert condition[0] == first[1]
    assert first[0] == second[0]
    assert second[1] != first[1]


def test_a_number_relates_nothing() -> None:
    seen = Inferred(RULES, s("pow.Tensor_Scalar", f(2, 3), 3))
    assert seen.operands() == [seen.result()]
    assert seen.result()[0] != seen.result()[1]


@pytest.mark.parametrize("sample", list(elementwise()), ids=str)
def test_nothing_is_locked_or_averaged_and_no_argument_changes(sample: object) -> None:
    seen = Inferred(RULES, sample)  # type: ignore[arg-type]
    assert seen.locks() == {}
    assert seen.averaged() == set()
    assert seen.reduced() == []
    assert seen.resized({axis: [0] for axes in seen.operands() for axis in axes}) == {}
