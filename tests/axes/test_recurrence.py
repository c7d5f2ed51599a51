"""The linear recurrence: heads and both sizes of the state pass through, time is locked."""

from graphprune.axes.rules.recurrence import RULES
from graphprune.ir.recurrence import RECURRENCE
from tests.support.one_call import Inferred
from tests.support.rule_samples import Sample, f

QUERY, KEY, VALUE, STATE = f(2, 3, 4, 5), f(2, 3, 4, 5), f(2, 3, 4, 6), f(2, 3, 5, 6)


def seen(*decay: int, beta: bool = False) -> Inferred:
    further = (f(2, 3, 4),) if beta else ()
    operands = (QUERY, KEY, VALUE, f(*decay), STATE, *further)
    return Inferred(RULES, Sample("linear_recurrence", "default", operands, {}, "graphprune"))


def test_the_state_has_a_row_for_each_channel_of_keys_and_a_column_for_each_of_values() -> None:
    query, key, value, _, state = seen(2, 3, 4, 1, 1).operands()
    assert query == key
    assert key[:3] == value[:3]
    assert state == (*key[:2], key[3], value[3])
    assert key[3] != value[3]


def test_it_gives_values_and_the_next_state() -> None:
    call = seen(2, 3, 4, 1, 1)
    _, _, value, _, state = call.operands()
    assert call.node.target is RECURRENCE
    assert call.result() == (value, state)


def test_only_time_is_locked() -> None:
    call = seen(2, 3, 4, 1, 1)
    assert call.locks() == {call.operands()[1][2]: "accumulated in order"}


def test_a_decay_for_each_channel_is_cut_with_the_channels_and_one_for_all_is_not() -> None:
    query, _, value, decay, _ = seen(2, 3, 4, 5, 1).operands()
    assert decay[:4] == query
    assert decay[4] != value[3]
    query, _, value, decay, _ = seen(2, 3, 4, 1, 6).operands()
    assert decay[3] != query[3]
    assert decay[4] == value[3]


def test_the_strength_of_writing_runs_with_heads_and_time() -> None:
    query, *_, beta = seen(2, 3, 4, 1, 1, beta=True).operands()
    assert beta == query[:3]
