"""Every axis rule against brute force: what moves when one index of an operand changes, and what a cut computes."""

import random
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, fx, nn

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.analysis.owners import owners
from graphprune.axes.algebra import Axis
from graphprune.axes.inference import infer
from graphprune.axes.rules import BUILT_IN
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import operator_key
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from graphprune.rewriting.masked import Masked
from tests.support import oracle
from tests.support.one_call import graph_of
from tests.support.rule_samples import Sample, f, s, samples

aten = torch.ops.aten
SAMPLES = samples()
EVERY = pytest.mark.parametrize("sample", SAMPLES, ids=[f"{n}-{sample}" for n, sample in enumerate(SAMPLES)])


def with_units(tensor: Tensor, dim: int, chosen: Any) -> Tensor:
    """The tensor with other values at these indices along a dimension."""
    changed = tensor.detach().clone()
    index = torch.from_numpy(numpy.asarray(chosen))
    part = changed.index_select(dim, index)
    other = ~part if part.dtype == torch.bool else torch.rand(part.shape).to(part.dtype) + part.new_tensor(0.9)
    return changed.index_copy(dim, index, other)


def movement(graph: Graph, name: str, dim: int, chosen: Any) -> list[Tensor]:
    """Where each result moves when some indices of an operand change: the union over several changes."""
    with torch.no_grad():
        return moved_by(graph, name, dim, chosen)


def moved_by(graph: Graph, name: str, dim: int, chosen: Any) -> list[Tensor]:
    before = graph()
    moved = [torch.zeros(t.shape, dtype=torch.bool) for t in before]
    for _ in range(3):
        tensor = with_units(graph.tensors()[name], dim, chosen)
        fresh = nn.Parameter(tensor) if tensor.is_floating_point() else tensor
        for seen, old, new in zip(moved, before, graph.with_tensors({name: fresh})(), strict=True):
            seen |= ~torch.isclose(old.double(), new.double(), rtol=1e-9, atol=1e-12, equal_nan=True)
    return moved


def operands(graph: Graph) -> Iterator[tuple[fx.Node, int]]:
    """Every dimension of every operand whose values may change: floating-point numbers and truth values."""
    for node in graph.module.graph.find_nodes(op="get_attr"):
        dtype = node.meta["value"].dtype
        picks = any(user.target is aten.index.Tensor for user in node.users)  # another mask gives another shape
        if dtype is torch.float64 or (dtype is torch.bool and not picks):
            yield from ((node, dim) for dim in range(len(node.meta["value"].shape)))


def free_atoms(analysis: Analysis) -> set[Axis]:
    """The atomic axes that neither a lock nor an average speaks of."""
    algebra = analysis.inference.algebra
    run_over = [reduction.axis for reduction in analysis.inference.reductions]
    marked = [axis for axis, _ in algebra.locks] + algebra.averaged + run_over
    marked_atoms = {a for axis in marked for a in algebra.atoms(axis)}
    held = [*analysis.inference.axes.values(), *(a for o in analysis.inference.outputs.values() for a in o)]
    return {atom for axes in held for axis in axes for atom in algebra.atoms(axis)} - marked_atoms


def test_every_rule_has_a_sample() -> None:
    sampled = {f"{sample.space}.{sample.name}" for sample in SAMPLES} | {"operator.getitem"}
    assert sampled == set(BUILT_IN)
    graphs = [graph_of(sample) for sample in SAMPLES[:1]]
    assert operator_key(next(n for n in graphs[0].nodes if n.op == "call_function")) in BUILT_IN


@EVERY
def test_axes_have_the_sizes_of_the_values(sample: Sample) -> None:
    graph = graph_of(sample)
    inference = infer(graph, BUILT_IN)
    held = [(node.meta["value"], axes) for node, axes in inference.axes.items()]
    for node, outputs in inference.outputs.items():
        held += zip(node.meta["value"], outputs, strict=True)
    for type_, axes in held:
        assert tuple(inference.algebra.size(axis) for axis in axes) == type_.shape


# The delta rule reads its whole state for what it writes: see test_recurrence.py for what its channels may do.
LOCAL = pytest.mark.parametrize("sample", [s for s in SAMPLES if s.space == "aten" or len(s.args) == 5], ids=str)


@LOCAL
def test_units_move_only_what_they_own(sample: Sample) -> None:
    """Soundness: where an operand and a result share a free axis, unit u of the one moves only unit u of the other."""
    graph = graph_of(sample)
    analysis = analyze_axes(graph)
    algebra, free = analysis.inference.algebra, free_atoms(analysis)
    for node, dim in operands(graph):
        for atom, owner in owners(algebra, analysis.inference.axes[node][dim], {}).items():
            for unit in range(int(str(algebra.size(atom)))) if atom in free else ():
                moves = movement(graph, str(node.target), dim, numpy.flatnonzero(owner == unit))
                for result, moved in zip(graph.results.values(), moves, strict=True):
                    allowed = positions_of(analysis, result, atom, unit)
                    assert allowed is None or not (moved & ~allowed).any(), (node.target, dim, unit)


def positions_of(analysis: Analysis, result: fx.Node, atom: Axis, unit: int) -> Tensor | None:
    """The entries of a result that a unit owns along any dimension; None where the result does not carry the axis."""
    shape, axes = result.meta["value"].shape, analysis.inference.axes[result]
    owned, carried = torch.zeros(shape, dtype=torch.bool), False
    for dim, axis in enumerate(axes):
        owner = owners(analysis.inference.algebra, axis, {}).get(atom)
        if owner is not None:
            carried = True
            owned |= torch.from_numpy(owner == unit).view([-1 if d == dim else 1 for d in range(len(shape))])
    return owned if carried else None


@EVERY
def test_what_moves_together_is_one_axis(sample: Sample) -> None:
    """Completeness: dimensions whose indices move one for one share their axis, unless it is locked."""
    graph = graph_of(sample)
    analysis = analyze_axes(graph)
    algebra = analysis.inference.algebra
    locked = {a for axis, _ in algebra.locks for a in algebra.atoms(axis)}
    for node, dim in operands(graph):
        axis = analysis.inference.axes[node][dim]
        for result, out in one_to_one(graph, node, dim):
            other = analysis.inference.axes[result][out]
            same = set(algebra.atoms(axis)) == set(algebra.atoms(other))
            assert same or set(algebra.atoms(other)) <= locked, (node.target, dim, out)


def one_to_one(graph: Graph, node: fx.Node, dim: int) -> Iterator[tuple[fx.Node, int]]:
    """The results' dimensions whose index j moves with the operand's index j, and with no other."""
    size = node.meta["value"].shape[dim]
    moves = [movement(graph, str(node.target), dim, [index]) for index in range(size)]
    for number, result in enumerate(graph.results.values()):
        for out, width in enumerate(result.meta["value"].shape):
            if size > 1 and width == size:
                table = torch.stack([m[number].movedim(out, 0).reshape(width, -1).any(1) for m in moves])
                if torch.equal(table, torch.eye(size, dtype=torch.bool)):
                    yield result, out


@EVERY
def test_cut_equals_masked(sample: Sample) -> None:
    """The oracle for one call: every group that its operands have, cut to a random choice, arguments resized."""
    graph = graph_of(sample)
    analysis = analyze_axes(graph)
    for group in analysis.groups.prunable() if graph.outputs else ():
        plan = Plan({group.id: oracle.random_keep(group, random.Random(group.id))}, (), "exact")
        if group.averaged and lacks_exact_form(sample):
            with pytest.raises(PlanError, match="use statistics survivors"):
                apply(graph, plan, analysis)
            continue
        with torch.no_grad():
            oracle.check_cut(graph, analysis, Masked(graph, analysis), plan, 1e-9)


def lacks_exact_form(sample: Sample) -> bool:
    """Say whether exact statistics are refused: a norm of several groups, or over several dimensions."""
    return (sample.name == "group_norm" and sample.args[1] > 1) or (
        sample.name == "layer_norm" and len(sample.args[1]) > 1
    )


def test_an_operator_without_a_rule_locks_everything() -> None:
    analysis = analyze_axes(graph_of(s("tril", f(4, 4))))
    assert [g.locked for g in analysis.groups.groups] == ["no axis rule for aten.tril (at tril_default)"] * 2
