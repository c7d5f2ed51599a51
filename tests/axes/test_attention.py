"""Attention: how query heads follow key heads, and that neither positions nor what a softmax runs over may go."""

import math

import pytest

from graphprune.axes.rules.attention import RULES
from tests.support.one_call import Inferred
from tests.support.rule_samples import f, s

CALL = "scaled_dot_product_attention"


def test_queries_and_keys_share_their_size_and_values_give_the_results() -> None:
    seen = Inferred(RULES, s(CALL, f(2, 4, 3, 6), f(2, 4, 5, 6), f(2, 4, 5, 7), scale=0.4))
    query, key, value = seen.operands()
    assert query[:2] == key[:2] == value[:2]
    assert query[3] == key[3] != value[3]
    assert key[2] == value[2] != query[2]
    assert seen.result() == (*query[:3], value[3])


def test_positions_of_keys_are_locked_and_those_of_queries_are_not() -> None:
    seen = Inferred(RULES, s(CALL, f(2, 4, 3, 6), f(2, 4, 5, 6), f(2, 4, 5, 6), scale=0.4))
    assert seen.locks() == {seen.operands()[1][2]: "attention weights are normalised over it"}


def test_grouped_queries_are_key_heads_times_repetitions() -> None:
    seen = Inferred(RULES, s(CALL, f(1, 6, 3, 4), f(1, 2, 5, 4), f(1, 2, 5, 4), scale=0.4, enable_gqa=True))
    query, key, value = seen.operands()
    heads, repeats = seen.algebra.factors(query[1])
    assert heads == key[1] == value[1]
    assert seen.algebra.size(repeats) == 3


def test_one_key_head_for_all_queries_does_not_bind_them() -> None:
    seen = Inferred(RULES, s(CALL, f(1, 4, 3, 6), f(1, 1, 5, 6), f(1, 1, 5, 6), scale=0.4))
    query, key, value = seen.operands()
    assert query[1] != key[1] == value[1]
    assert seen.algebra.factors(query[1]) == (query[1],)


def test_a_mask_runs_with_heads_and_positions_where_it_has_more_than_one_of_them() -> None:
    mask = (f(1, 4, 3, 5),)
    seen = Inferred(RULES, s(CALL, f(2, 4, 3, 6), f(2, 4, 5, 6), f(2, 4, 5, 6), *mask, scale=0.4))
    query, key, _, (batch, *rest) = seen.operands()
    assert rest == [query[1], query[2], key[2]]
    assert batch != query[0]


@pytest.mark.parametrize("name", ["softmax.int", "log_softmax.int", "_safe_softmax"])
def test_a_softmax_keeps_its_axes_and_counts_minus_infinity_for_nothing(name: str) -> None:
    seen = Inferred(RULES, s(name, f(2, 3), -1))
    (operand,) = seen.operands()
    assert seen.result() == operand
    assert seen.reduced() == [(operand[1], -math.inf, "normalised over by a softmax")]
    assert seen.locks() == {}
