"""Contractions: which dimension of both operands is summed over, and which of them the result keeps."""

import pytest

from graphprune.axes.rules.contraction import RULES, read_equation
from tests.support.one_call import Inferred
from tests.support.rule_samples import Sample, f, s


def test_a_linear_layer_sums_over_its_columns_and_gives_its_rows() -> None:
    seen = Inferred(RULES, s("linear", f(2, 3, 4), f(5, 4), f(5)))
    x, weight, bias = seen.operands()
    assert x[2] == weight[1]
    assert seen.result() == (*x[:2], weight[0])
    assert bias == weight[:1]
    assert seen.locks() == {}


@pytest.mark.parametrize(
    ("sample", "summed", "result"),
    [
        (s("matmul", f(2, 3, 4), f(4, 5)), (2, 0), "00 01 11"),
        (s("matmul", f(2, 1, 3, 4), f(6, 4, 5)), (3, 1), "00 10 02 12"),
        (s("matmul", f(4), f(4, 3)), (0, 0), "11"),
        (s("matmul", f(3, 4), f(4)), (1, 0), "00"),
        (s("bmm", f(2, 3, 4), f(2, 4, 5)), (2, 1), "00 01 12"),
        (s("mv", f(3, 4), f(4)), (1, 0), "00"),
    ],
    ids=str,
)
def test_products_sum_over_the_last_of_the_first_and_the_last_but_one_of_the_second(
    sample: Sample, summed: tuple[int, int], result: str
) -> None:
    seen = Inferred(RULES, sample)
    operands = seen.operands()
    assert operands[0][summed[0]] == operands[1][summed[1]]
    assert seen.result() == tuple(operands[int(which)][int(dim)] for which, dim in result.split())
    assert operands[0][summed[0]] not in seen.result()


def test_a_summand_of_one_row_is_not_related_to_the_rows() -> None:
    seen = Inferred(RULES, s("addmm", f(1, 5), f(3, 4), f(4, 5)))
    summand, left, right = seen.operands()
    assert summand[1] == right[1]
    assert summand[0] != left[0]
    assert left[1] == right[0]


def test_an_einsum_locks_what_only_one_operand_has_and_relates_equal_letters() -> None:
    seen = Inferred(RULES, s("einsum", "ij,kj->i", [f(2, 3), f(4, 3)]))
    (i, j), (k, other) = seen.operands()
    assert j == other
    assert seen.result() == (i,)
    assert seen.locks() == {k: "summed up, or its diagonal taken, by an einsum"}


@pytest.mark.parametrize(
    ("equation", "ranks", "rank", "terms", "result"),
    [
        ("ij,jk->ik", (2, 2), 2, ["ij", "jk"], "ik"),
        ("ba, ac", (2, 2), 2, ["ba", "ac"], "bc"),
        ("...i,ij->...j", (3, 2), 3, ["10i", "ij"], "10j"),
        ("...i,...i->...", (3, 2), 2, ["10i", "0i"], "10"),
        ("...a,ab", (2, 2), 2, ["0a", "ab"], "0b"),
    ],
)
def test_an_equation_is_read_with_its_ellipsis_and_without_its_arrow(
    equation: str, ranks: tuple[int, ...], rank: int, terms: list[str], result: str
) -> None:
    assert read_equation(equation, ranks, rank) == (terms, result)


def test_the_groups_of_a_convolution_are_an_outer_factor_of_both_sides_and_follow_their_width() -> None:
    seen = Inferred(RULES, s("conv1d", f(2, 4, 7), f(6, 2, 3), f(6), [1], [1], [1], 2))
    x, weight, bias = seen.operands()
    groups, members = seen.algebra.factors(x[1])
    assert (seen.algebra.size(groups), members) == (2, weight[1])
    assert seen.algebra.factors(weight[0])[0] == groups
    assert seen.algebra.factors(bias[0]) == seen.algebra.factors(weight[0])
    assert seen.resized({groups: [1]}) == {"groups": 1}
    assert seen.resized({}) == {"groups": 2}
    assert set(seen.locks()) == {x[2], weight[2], seen.result()[2]}


def test_a_transposed_convolution_reads_its_rows_and_writes_its_columns() -> None:
    seen = Inferred(RULES, s("conv_transpose1d", f(1, 4, 5), f(4, 3, 3), f(3)))
    x, weight, bias = seen.operands()
    assert x[1] == weight[0]
    assert seen.result()[1] == weight[1] == bias[0]
    assert seen.resized({weight[1]: [0]}) == {}
