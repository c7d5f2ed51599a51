"""Repetition: blocks that equal one before them, found by their classes and by what they did in one run."""

from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from graphprune.frontend.blocks.recording import Call, Recording, Stack, Token, record
from graphprune.frontend.blocks.relation import NotRepeatedError, relate
from graphprune.frontend.blocks.repetition import (
    Repetition,
    count_kept,
    find_repetitions,
    find_stacks,
    is_in_turn,
    is_numbered,
    is_repeating,
    label,
    require_same,
    shared_stacks,
    sources_of,
    state_stack,
)
from graphprune.frontend.source import Positional
from tests.support.blocks import CONTRACT, Block, Row


def stacks_of(module: nn.Module) -> list[Stack]:
    return list(find_stacks(Positional(module)))


def recorded(row: Row) -> Recording:
    wrapper = Positional(row.eval())
    return record(wrapper, CONTRACT, list(find_stacks(wrapper)), nullcontext)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=9))
def test_a_block_is_what_the_first_equal_one_after_block_0_is(keys: list[int]) -> None:
    sources = sources_of(keys)
    assert sources[0] == 0
    for index, source in enumerate(sources[1:], 1):
        assert keys[source] == keys[index]
        assert keys[index] not in keys[1:source]
    assert {*sources} <= {*range(count_kept(sources))}
    assert count_kept(sources) - 1 in sources


@pytest.mark.parametrize(
    ("labels", "repeats"),
    [
        ((0, 0, 0), True),
        ((0, 1, 1), True),
        ((0, 1, 2), False),
        ((0, 1, 0), False),
        ((0, 1, 0, 1), True),
        ((0, 0), False),
    ],
)
def test_something_repeats_where_a_block_after_the_first_has_an_equal(labels: tuple[int, ...], repeats: bool) -> None:
    assert is_repeating(labels) is repeats


def test_lists_of_three_or_more_under_their_numbers_are_stacks() -> None:
    assert is_numbered(nn.ModuleList([Block(), Block(), Block()]))
    assert is_numbered(nn.Sequential(Block(), Block(), Block()))
    assert not is_numbered(nn.ModuleList([Block(), Block()]))
    assert not is_numbered(nn.Sequential(OrderedDict((f"block{i}", Block()) for i in range(3))))
    assert not is_numbered(nn.Sequential(OrderedDict((str(i), Block()) for i in (1, 0, 2))))
    assert not is_numbered(nn.ModuleDict({str(i): Block() for i in range(3)}))


def test_only_the_outermost_stacks_are_found_under_their_paths() -> None:
    inner = [nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(3)]
    module = nn.ModuleDict({"body": nn.ModuleDict({"layers": nn.ModuleList(inner)}), "tail": Row(3)})
    assert [stack.path for stack in find_stacks(module)] == ["body.layers", "tail.layers"]
    assert not stacks_of(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(5, 4)))


def test_labels_name_the_first_equal_block() -> None:
    row = Row(5)
    row.layers[1].linear = row.layers[4].linear = nn.Linear(4, 4, bias=False)
    assert label(Stack("layers", row.layers)) == (0, 1, 0, 0, 1)


def test_a_parameter_that_something_outside_its_block_has_too_rules_its_stack_out() -> None:
    row = Row(4)
    assert shared_stacks(row, list(find_stacks(row))) == set()
    row.layers[1].register_parameter("again", row.layers[1].linear.weight)
    assert shared_stacks(row, list(find_stacks(row))) == set(), "twice in one block"
    row.layers[2].linear.bias = row.layers[3].linear.bias
    assert shared_stacks(row, list(find_stacks(row))) == {"layers"}
    tied = Row(3)
    tied.head.weight = tied.layers[1].linear.weight
    assert shared_stacks(tied, list(find_stacks(tied))) == {"layers"}


def test_blocks_take_turns_where_nothing_is_called_between_them() -> None:
    stack = stacks_of(Row(4))[0]
    plain, halved = recorded(Row(4)), recorded(Row(4, lambda index, x: x / 2 if index == 1 else x))
    assert is_in_turn(plain, stack)
    assert not is_in_turn(halved, stack)
    entered = plain.entered
    assert not is_in_turn(replace(plain, entered=entered[::-1]), stack)
    assert not is_in_turn(replace(plain, entered=(*entered, entered[-1])), stack)
    assert not is_in_turn(replace(plain, entered=entered[:-1]), stack)


def test_states_are_made_by_the_stack_whose_block_has_the_number_of_their_layer() -> None:
    calls = tuple(Call(("layers", layer), "make", (), ()) for layer in (0, 1))
    made = {f"present.{layer}.key": Token("result", layer) for layer in (0, 1)}
    returned = {**made, "logits": Token("result", 1)}
    assert state_stack(Recording(calls, returned, ())) == "layers"
    assert state_stack(Recording(calls[::-1], returned, ())) is None, "block 1 makes the state of layer 0"
    assert state_stack(Recording(calls, {**returned, "present.1.value": Token("input", "x")}, ())) is None
    assert state_stack(Recording(calls, {"logits": Token("result", 1)}, ())) is None


def found(row: Row) -> tuple[Repetition, ...]:
    stacks = stacks_of(row)
    return find_repetitions(recorded(row), {s.path: label(s) for s in stacks}, stacks)[0]


def test_equal_blocks_are_continued_from_the_second_and_block_0_is_like_it() -> None:
    assert found(Row(5, stem=True)) == (Repetition("module.layers", (0, 1, 1, 1, 1), 2, 1),)
    assert found(Row(2, stem=True)) == ()


def test_a_block_that_reads_an_input_itself_is_not_like_those_that_read_a_block() -> None:
    assert found(Row(5)) == (Repetition("module.layers", (0, 1, 1, 1, 1), 2, None),)


def test_two_kinds_in_turn_keep_one_of_each() -> None:
    row = Row(6, stem=True)
    for index in (1, 3, 5):
        row.layers[index].scale = 2.0
    assert found(row) == (Repetition("module.layers", (0, 1, 2, 1, 2, 1), 3, 2),)


def test_blocks_that_are_alike_but_do_not_run_alike_do_not_repeat() -> None:
    assert found(Row(5, lambda index, x: x * 2)) == ()


def test_fewer_blocks_must_do_what_the_first_ones_did() -> None:
    stacks, repetition = stacks_of(Row(5)), Repetition("module.layers", (0, 1, 1, 1, 1), 2, 1)
    full = relate(recorded(Row(5)), stacks, None)
    narrow = replace(full, blocks={"module.layers": full.blocks["module.layers"][:2]})
    require_same(full, narrow, [repetition])
    with pytest.raises(NotRepeatedError, match="with fewer blocks the model does something else outside of them"):
        require_same(full, replace(narrow, outside=()), [repetition])
    with pytest.raises(NotRepeatedError, match="something else outside"):
        require_same(full, replace(narrow, returned={}), [repetition])
    other = {"module.layers": full.blocks["module.layers"][1:3]}
    with pytest.raises(NotRepeatedError, match=r"the first blocks of module\.layers do something else"):
        require_same(full, replace(narrow, blocks=other), [repetition])
