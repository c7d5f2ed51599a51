"""Reductions and norms: what is averaged over, what a removed unit must hold to count for nothing, what is locked."""

import math

import pytest

from graphprune.axes.rules.reduction import RULES
from tests.support.one_call import Inferred
from tests.support.rule_samples import Sample, b, f, s

TAKEN = "the largest or smallest is taken"


def test_a_mean_averages_over_its_dimensions_and_keeps_the_others() -> None:
    seen = Inferred(RULES, s("mean.dim", f(2, 3, 4), [0, -1]))
    a, middle, c = seen.operands()[0]
    assert seen.averaged() == {a, c}
    assert seen.result() == (middle,)
    assert seen.locks() == {}


def test_dimensions_that_are_kept_are_new_ones_of_size_one() -> None:
    seen = Inferred(RULES, s("mean.dim", f(2, 3), [1], keepdim=True))
    rows, one = seen.result()
    assert rows == seen.operands()[0][0]
    assert seen.algebra.size(one) == 1


REDUCED = [
    (s("sum.dim_IntList", f(2, 3), [1]), 0.0),
    (s("prod.dim_int", f(2, 3), 1), 1.0),
    (s("amax", f(2, 3), [1]), -math.inf),
    (s("amin", f(2, 3), [1]), math.inf),
    (s("logsumexp", f(2, 3), [1]), -math.inf),
    (s("argmin", f(2, 3), 1), math.inf),
    (s("max.dim", f(2, 3), 1), -math.inf),
    (s("any.dim", b(2, 3), 1), 0),
    (s("all.dim", b(2, 3), 1), 1),
    (s("linalg_vector_norm", f(2, 3), 2, [1]), 0.0),
]


@pytest.mark.parametrize(("sample", "neutral"), REDUCED, ids=[str(sample) for sample, _ in REDUCED])
def test_a_neutral_value_leaves_the_result_as_it_is_without_the_entry(sample: Sample, neutral: float) -> None:
    seen = Inferred(RULES, sample)
    (axis, found, _) = seen.reduced()[0]
    assert (axis, found) == (seen.operands()[0][1], neutral)
    whole = sample.args[0].clone()
    whole[:, 2] = neutral
    args = sample.args[1:]
    full, less = (sample.target(t, *args, **sample.kwargs) for t in (whole, whole[:, :2]))
    pairs = zip(full, less, strict=True) if isinstance(full, tuple) else [(full, less)]
    assert all(left.equal(right) for left, right in pairs)


def test_the_largest_entry_points_into_its_axis() -> None:
    seen = Inferred(RULES, s("max.dim", f(2, 3), 1))
    (choice,) = seen.inference.choices
    rows, columns = seen.operands()[0]
    assert (choice.axis, choice.slots, choice.picks) == (columns, None, True)
    assert seen.reduced() == [(columns, -math.inf, TAKEN)]
    assert seen.result() == ((rows,), (rows,))
    assert [seen.algebra.find(axis) for axis in seen.inference.indexed.values()] == [columns]


def test_the_larger_of_two_is_elementwise() -> None:
    seen = Inferred(RULES, s("max.other", f(2, 3), f(3)))
    left, right = seen.operands()
    assert left[1:] == right
    assert seen.reduced() == []


@pytest.mark.parametrize("call", [s("cumsum", f(2, 3), 1), s("flip", f(2, 3), [1]), s("cummax", f(2, 3), 1)], ids=str)
def test_what_runs_in_order_locks_its_dimension_alone(call: Sample) -> None:
    seen = Inferred(RULES, call)
    operand = seen.operands()[0]
    assert seen.locks() == {operand[1]: "accumulated in order"}
    assert seen.result() in (operand, (operand, operand))


def test_a_spread_is_locked_whatever_the_removed_units_hold() -> None:
    seen = Inferred(RULES, s("var.dim", f(2, 3), [1]))
    assert seen.locks() == {seen.operands()[0][1]: "its spread is measured"}


def test_a_layer_norm_averages_over_its_last_dimensions_and_their_sizes_follow() -> None:
    seen = Inferred(RULES, s("layer_norm", f(2, 3, 4), [3, 4]))
    _, rows, columns = seen.operands()[0]
    assert seen.averaged() == {rows, columns}
    assert seen.resized({columns: [0, 3]}) == {"normalized_shape": [3, 2]}
    weighted = Inferred(RULES, s("rms_norm", f(2, 4), [4], f(4)))
    assert weighted.operands()[0][1:] == weighted.operands()[1]


def test_a_group_norm_averages_over_members_and_positions_and_not_over_groups() -> None:
    seen = Inferred(RULES, s("group_norm", f(2, 6, 5), 3, f(6), f(6)))
    _, channels, positions = seen.operands()[0]
    groups, members = seen.algebra.factors(channels)
    assert seen.averaged() == {members, positions}
    assert seen.resized({groups: [0, 2], members: [1]}) == {"num_groups": 2}
    assert [seen.algebra.factors(axes[0]) for axes in seen.operands()[1:]] == [(groups, members)] * 2


def test_a_batch_norm_lies_along_the_channels_and_locks_what_it_measures() -> None:
    statistics = (f(3), f(3), f(3), f(3))
    still = Inferred(RULES, s("batch_norm", f(2, 3, 4), *statistics, False, 0.1, 1e-5, False))
    channels = still.operands()[0][1]
    assert still.operands()[1:] == [(channels,)] * 4
    assert still.locks() == {}
    measured = Inferred(RULES, s("batch_norm", f(2, 3, 4), *statistics, True, 0.1, 1e-5, False))
    assert set(measured.locks()) == {measured.operands()[0][0], measured.operands()[0][2]}


def test_a_pooling_locks_positions_before_and_after_it() -> None:
    seen = Inferred(RULES, s("avg_pool1d", f(2, 3, 6), [2]))
    assert set(seen.locks()) == {seen.operands()[0][2], seen.result()[2]}
    assert seen.result()[:2] == seen.operands()[0][:2]
