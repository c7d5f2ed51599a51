"""Locks: why an axis may not shrink."""

import torch
from torch import fx

from graphprune.axes import Algebra, Axis
from graphprune.inference import SAME_VALUES, Inference
from graphprune.ir import Graph
from graphprune.kinds import Kinds
from graphprune.states import is_present, is_state

_PICKING = {"embedding", "index", "gather", "index_select"}


def collect_locks(graph: Graph, inference: Inference, kinds: Kinds) -> dict[Axis, str]:
    """Why an atomic axis may not shrink: found while inferring, or because it is part of the contract."""
    algebra = inference.algebra
    locks: dict[Axis, str] = {}
    for axis, lock in algebra.locks:
        for atom in algebra.atoms(axis):
            locks.setdefault(atom, f"{lock.reason} (at {lock.node})")
    for name, node in graph.placeholders.items():
        if not is_state(name):
            lock_all(locks, algebra, inference.axes[node], f"is a dimension of the input {name}")  # type: ignore[arg-type]
    for name, node in graph.results.items():
        if not is_present(name):
            lock_all(locks, algebra, inference.axes[node], f"is a dimension of the output {name}", kinds.vocabulary)  # type: ignore[arg-type]
    lock_averaged_queries(locks, algebra, kinds)
    for index, axis in inference.indexed.items():
        if index.op == "placeholder" and index.name != "input_ids":
            lock_all(locks, algebra, (axis,), f"the input {index.name} picks from it")
        computed = computed_with(index)
        if computed is not None:
            lock_all(locks, algebra, (axis,), f"the values of {index.name} are computed with (at {computed})")
    return locks


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
            target = user.target
            name = target._opname if isinstance(target, torch._ops.OpOverload) else ""
            if user.op == "output" or name in _PICKING or name == "sym_size":
                continue
            if name not in SAME_VALUES:
                return str(user.name)
            pending.append(user)
    return None


def lock_all(
    locks: dict[Axis, str], algebra: Algebra, axes: tuple[Axis, ...], reason: str, free: frozenset[Axis] = frozenset()
) -> None:
    for axis in axes:
        for atom in algebra.atoms(axis):
            if atom not in free:
                locks.setdefault(atom, reason)
