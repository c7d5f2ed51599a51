"""Locks: the contract, values that are computed with, and what runs over an axis that may not lose a unit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphprune.analysis.analyse import analyze_axes
from graphprune.analysis.choices import Chosen
from graphprune.analysis.groups import Group
from graphprune.analysis.locks import collect_locks, computed_with, lock_all, lock_reductions, picks
from graphprune.axes.algebra import Algebra
from graphprune.axes.inference import Choice, Inference, Reduction
from graphprune.frontend.source import capture
from graphprune.ir.contract import is_present, is_state
from graphprune.ir.graph import Graph
from graphprune.ir.operators import opname
from tests.analysis.test_kinds import kinds
from tests.support.families import analysis, families, graph
from tests.support.one_call import bare

Use = Callable[["Table", Tensor], Tensor]


class Table(nn.Module):
    """Rows of a table by their numbers, and what else is done with the numbers."""

    def __init__(self, use: Use) -> None:
        super().__init__()
        self.table, self.leave, self.use = nn.Embedding(9, 6), nn.Linear(6, 3), use

    def forward(self, ids: Tensor) -> Tensor:
        return self.leave(self.table(ids)) + self.use(self, ids)  # type: ignore[no-any-return]


def captured(use: Use) -> Graph:
    return capture(Table(use).eval(), inputs={"ids": torch.randint(9, (3, 4))})


def nothing(table: Table, ids: Tensor) -> Tensor:
    return torch.zeros(1)


def another_pick(table: Table, ids: Tensor) -> Tensor:
    return table.table(ids.reshape(-1))[:1, :1]


def like_them(table: Table, ids: Tensor) -> Tensor:
    return torch.zeros_like(ids, dtype=torch.float32)[..., None]


def summed(table: Table, ids: Tensor) -> Tensor:
    return ids.sum() * 0.1


def compared_in_another_shape(table: Table, ids: Tensor) -> Tensor:
    return (ids.unsqueeze(-1).transpose(0, 1).transpose(0, 1) == 3).float()


@pytest.mark.parametrize(
    ("use", "operator"),
    [(nothing, None), (another_pick, None), (like_them, None), (summed, "sum"), (compared_in_another_shape, "eq")],
)
def test_numbers_that_are_computed_with_are_named_with_the_call(use: Use, operator: str | None) -> None:
    found = captured(use)
    name = computed_with(found.placeholders["ids"])
    assert (name is None) == (operator is None)
    if name is not None:
        assert opname(next(n for n in found.nodes if n.name == name)) == operator


def test_numbers_are_pointed_with_and_not_picked_from() -> None:
    found = captured(nothing)
    table = next(n for n in found.nodes if opname(n) == "embedding")
    weight, ids = table.args[:2]
    assert picks(table, ids)  # type: ignore[arg-type]
    assert not picks(table, weight)  # type: ignore[arg-type]
    assert not picks(next(n for n in found.nodes if opname(n) == "linear"), table)


def rows(found: Graph) -> Group:
    return next(
        g for g in analyze_axes(found).groups.groups if (g.slots[0].name, g.slots[0].dim) == ("table.weight", 0)
    )


def test_an_input_by_another_name_than_input_ids_locks_what_it_picks_from() -> None:
    assert rows(captured(nothing)).locked == "the input ids picks from it"


@pytest.mark.parametrize("name", families(["llama", "bert", "cnn", "mamba"]))
def test_inputs_and_outputs_keep_their_dimensions_and_states_do_not_have_to(name: str) -> None:
    cut, found = analysis(name), kinds(name)
    locks = collect_locks(graph(name), cut.inference, found)
    algebra, axes = cut.inference.algebra, cut.inference.axes
    for entry, node in [*graph(name).placeholders.items(), *graph(name).results.items()]:
        if not is_state(entry) and not is_present(entry):
            atoms = {a for axis in axes[node] for a in algebra.atoms(axis)}  # type: ignore[arg-type]
            assert atoms - found.vocabulary <= set(locks)
    assert found.vocabulary.isdisjoint(locks), "tokens may go"
    said = [reason for reason in locks.values() if reason.startswith("is a dimension of the")]
    assert {reason.split()[6] for reason in said} <= {*graph(name).inputs, *graph(name).outputs}


@pytest.mark.xdist_group("llama")
def test_the_first_reason_stays() -> None:
    algebra = Algebra()
    a, b, c = (algebra.fresh(size) for size in (2, 3, 4))
    locks = {a: "because"}
    lock_all(locks, algebra, (algebra.product((a, b)), c), "later", frozenset({c}))
    assert locks == {a: "because", b: "later"}


def made() -> tuple[Algebra, int, int, Inference]:
    """Eight experts of which a call chooses two, one that runs over them, and one over something else."""
    algebra = Algebra()
    experts, slots, other = algebra.fresh(8), algebra.fresh(2), algebra.fresh(5)
    node = torch.fx.Graph().placeholder("call")
    reductions = [Reduction(node, node, 0, axis, 0.0, "summed up") for axis in (experts, slots, other)]
    return algebra, experts, slots, bare(algebra, reductions, [Choice(node, experts, slots, True)])


def test_what_runs_over_chosen_entries_locks_nothing() -> None:
    _, experts, slots, inference = made()
    locks = lock_reductions({}, inference, Chosen(frozenset({experts}), {slots: (experts,)}, (), {}))
    assert list(locks.values()) == ["summed up (at call)", "counts what is chosen (at call)"]
    assert experts not in locks
    assert locks[slots] == "counts what is chosen (at call)"


def test_without_a_choice_everything_that_is_run_over_is_locked() -> None:
    _, experts, slots, inference = made()
    locks = lock_reductions({experts: "first"}, inference, Chosen(frozenset(), {}, (), {}))
    assert locks[experts] == "first"
    assert locks[slots] == "summed up (at call)"
    assert len(locks) == 3


def test_a_mean_counts_what_is_never_chosen() -> None:
    algebra, experts, slots, inference = made()
    algebra.average(experts)
    locks = lock_reductions({}, inference, Chosen(frozenset({experts}), {slots: (experts,)}, (), {}))
    assert locks[experts] == "is averaged over, where a unit that is never chosen would count"
