"""Locks: why an axis may not shrink."""

from collections.abc import Mapping

from torch import fx

from graphprune.analysis.choices import Chosen
from graphprune.analysis.kinds import Kinds
from graphprune.analysis.norm_locks import leftover_locks
from graphprune.axes.algebra import Algebra, Axis
from graphprune.axes.inference import Inference
from graphprune.ir.contract import is_present, is_state
from graphprune.ir.graph import Graph
from graphprune.ir.operators import SAME_VALUES, bind, opname

_PICKING = {"embedding", "index", "gather", "index_select", "scatter", "index_add", "one_hot"}
_POINTED = {"one_hot"}  # the first operand points
_TYPE_ONLY = {"sym_size", "new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like"}
_JOINING = {"cat", "concat"}  # which carry the axis on, see graphprune/axes/rules/shape.py


def collect_locks(graph: Graph, inference: Inference, kinds: Kinds) -> dict[Axis, str]:
    """Why an atomic axis may not shrink: found while inferring, or because it is part of the contract."""
    algebra = inference.algebra
    locks: dict[Axis, str] = {}
    for axis, lock in algebra.locks:
        for atom in algebra.atoms(axis):
            locks.setdefault(atom, f"{lock.reason} (at {lock.node})")
    for name, node in graph.placeholders.items():
        if not is_state(name):
            lock_all(locks, algebra, inference.axes[node], f"is a dimension of the input {name}")
    for name, node in graph.results.items():
        if not is_present(name):
            lock_all(locks, algebra, inference.axes[node], f"is a dimension of the output {name}", kinds.vocabulary)
    lock_averaged_queries(locks, algebra, kinds)
    locks = {**leftover_locks(graph, inference), **locks}
    for index, axis in inference.indexed.items():
        if index.op == "placeholder" and index.name != "input_ids":
            lock_all(locks, algebra, (axis,), f"the input {index.name} picks from it")
        computed = computed_with(index)
        if computed is not None:
            lock_all(locks, algebra, (axis,), f"the values of {index.name} are computed with (at {computed})")
    return locks


def lock_reductions(locks: Mapping[Axis, str], inference: Inference, chosen: Chosen) -> dict[Axis, str]:
    """The locks, and those of axes that a call runs over: where a removed unit would count, it may not go."""
    algebra, result = inference.algebra, dict(locks)
    free = chosen.atoms | chosen.slots.keys()
    for reduction in inference.reductions:
        for atom in algebra.atoms(reduction.axis):
            if atom not in free:
                result.setdefault(atom, f"{reduction.reason} (at {reduction.node.name})")
    for choice in inference.choices:
        for atom in algebra.atoms(choice.slots) if choice.slots is not None else ():
            result.setdefault(atom, f"counts what is chosen (at {choice.node.name})")
    for axis in algebra.averaged:
        for atom in free.intersection(algebra.atoms(axis)):
            result.setdefault(atom, "is averaged over, where a unit that is never chosen would count")
    return result


def lock_averaged_queries(locks: dict[Axis, str], algebra: Algebra, kinds: Kinds) -> None:
    """A query of zeros attends to everything alike, so a norm over what attention gives counts it."""
    averaged = {atom for axis in algebra.averaged for atom in algebra.atoms(axis)}
    for atom in averaged & kinds.queries:
        locks.setdefault(atom, "is averaged over after attention, where a removed query is not zero")


def computed_with(index: fx.Node) -> str | None:
    """The first node that uses an integer tensor's values for anything but picking."""
    pending = [index]
    while pending:
        node = pending.pop()
        for user in node.users:
            name = opname(user)
            if name in _TYPE_ONLY or picks(user, node) or (user.op == "output" and index.op == "placeholder"):
                continue
            if name not in SAME_VALUES | _JOINING:
                return str(user.name)
            pending.append(user)
    return None


def picks(user: fx.Node, index: fx.Node) -> bool:
    """Say whether a call uses an integer tensor to point at entries, and for nothing else."""
    if opname(user) not in _PICKING:
        return False
    return index not in (user.args[0], bind(user).get("src"), bind(user).get("source")) or opname(user) in _POINTED


def lock_all(
    locks: dict[Axis, str], algebra: Algebra, axes: tuple[Axis, ...], reason: str, free: frozenset[Axis] = frozenset()
) -> None:
    for axis in axes:
        for atom in algebra.atoms(axis):
            if atom not in free:
                locks.setdefault(atom, reason)
