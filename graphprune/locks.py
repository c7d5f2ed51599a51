"""Locks: why an axis may not shrink."""

from graphprune.axes import Algebra, Axis
from graphprune.inference import Inference
from graphprune.ir import Graph
from graphprune.kinds import Kinds


def collect_locks(graph: Graph, inference: Inference, kinds: Kinds) -> dict[Axis, str]:
    """Why an atomic axis may not shrink: found while inferring, or because it is part of the contract."""
    algebra = inference.algebra
    locks: dict[Axis, str] = {}
    for axis, lock in algebra.locks:
        for atom in algebra.atoms(axis):
            locks.setdefault(atom, f"{lock.reason} (at {lock.node})")
    for name, node in graph.placeholders.items():
        if not name.startswith("past_key_values."):
            lock_all(locks, algebra, inference.axes[node], f"is a dimension of the input {name}")  # type: ignore[arg-type]
    for name, node in graph.results.items():
        if not name.startswith("present."):
            lock_all(locks, algebra, inference.axes[node], f"is a dimension of the output {name}", kinds.vocabulary)  # type: ignore[arg-type]
    for index, axis in inference.indexed.items():
        if index.op == "placeholder" and index.name != "input_ids":
            lock_all(locks, algebra, (axis,), f"the input {index.name} picks from it")
    return locks


def lock_all(
    locks: dict[Axis, str], algebra: Algebra, axes: tuple[Axis, ...], reason: str, free: frozenset[Axis] = frozenset()
) -> None:
    for axis in axes:
        for atom in algebra.atoms(axis):
            if atom not in free:
                locks.setdefault(atom, reason)
