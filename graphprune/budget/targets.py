"""Targets: what a user asks for - parameters, file sizes, cache, speed - as a quantity and what it may come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphprune.amounts import parse_bytes, parse_target
from graphprune.analysis.analyse import analyze
from graphprune.budget.backend import Backend
from graphprune.budget.quantities import CacheBytes, FileBytes, Parameters, Quantity
from graphprune.errors import BudgetError, UsageError
from graphprune.ir.graph import Graph
from graphprune.spec import print_spec


@dataclass(frozen=True)
class Target:
    """The cost that the result may have at most, in units of the quantity, and the source's."""

    quantity: Quantity
    most: int
    source: int

    @property
    def spec(self) -> str:
        return print_spec(self.quantity)


def resolve_target(kind: str, text: str, source: Graph, files: Mapping[str, FileBytes]) -> Target:
    """The target of one option, but for a speed, which is measured. Raises UsageError, BudgetError.

    `kind` is the option, `text` its value; `files` are the model files that will be written, by their folders.
    """
    if kind == "--vocabulary":  # no more is asked for than what is left without the tokens
        return make_target(Parameters(), source, "100%")
    if kind == "--target-params":
        return make_target(Parameters(), source, text)
    if kind == "--target-kv-bytes":
        return make_bytes_target(CacheBytes(), source, text)
    place, _, size = text.rpartition(":")
    return make_bytes_target(largest_file(source, files, place), source, size)


def make_target(quantity: Quantity, source: Graph, text: str) -> Target:
    now = cost_of_graph(quantity, source)
    return Target(quantity, parse_target(text, now), now)


def make_bytes_target(quantity: Quantity, source: Graph, text: str) -> Target:
    """A target in bytes or as a share. Raises UsageError, and BudgetError where there is nothing to be cut."""
    now = cost_of_graph(quantity, source)
    if now == 0:
        raise BudgetError("this model keeps no cache; give --target-params")
    most = parse_bytes(text, now, quantity.unit)
    if most > now:
        raise BudgetError(f"the target {text!r} is above what the model has, {quantity.show(now)}; lower it")
    return Target(quantity, most, now)


def cost_of_graph(quantity: Quantity, graph: Graph) -> int:
    groups = analyze(graph)
    return quantity.cost(groups)(groups.sizes())


def file_quantities(source: Graph, backends: Sequence[Backend]) -> Mapping[str, FileBytes]:
    """What the model files of the backends hold, by the names of their folders."""
    found = (backend.quantity(source) for backend in backends)
    return {quantity.place: quantity for quantity in found if quantity is not None}


def largest_file(source: Graph, files: Mapping[str, FileBytes], place: str) -> FileBytes:
    """The quantity of a named file, or of the largest: what fits there fits everywhere. Raises UsageError."""
    if not files:
        raise UsageError("--target-size needs a backend that writes a model file; add onnx to --backends")
    if place and place not in files:
        raise UsageError(f"--target-size: no backend of this run writes {place}; there is {', '.join(files)}")
    sizes = {name: cost_of_graph(quantity, source) / quantity.unit for name, quantity in files.items()}
    return files[place or max(sizes, key=lambda name: sizes[name])]
