"""The way in which a graph is run in training: compiled or not, in layers or not, and with what held for backward."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from graphprune.ir.graph import Graph
from graphprune.training.execution.casts import with_casts
from graphprune.training.execution.compiled import Compiler
from graphprune.training.execution.layer_modules import segment_name, segmented
from graphprune.training.execution.recomputed import Checkpoint, recomputed
from graphprune.training.execution.runner import Checkpointed


@dataclass(frozen=True)
class Way:
    """`narrow` is the type that autocast multiplies in, where it is on. With `spread`, rows of every length are run by
    the same modules, one a layer."""

    checkpoint: Checkpoint = "off"
    compile: bool = False
    spread: bool = False
    narrow: torch.dtype | None = None


def run_by(graph: Graph, output: str, way: Way) -> nn.Module:
    """A module from the graph's inputs to a tuple, in which the output has the place that it has in the graph, or is
    alone. Parameters are shared."""
    if way.compile or way.spread:
        return in_layers(graph, output, way)[0].module
    if way.checkpoint == "off":
        return graph.module
    cast = narrowed(graph, way)
    return Checkpointed(cast.module, recomputed(cast, way.checkpoint))


def in_layers(graph: Graph, output: str, way: Way) -> tuple[Graph, tuple[nn.Module, ...]]:
    """The graph with this output alone and one module for each layer, and these modules."""
    cast = narrowed(graph, way)
    result, layers = segmented(cast, output)
    names = recomputed(cast, way.checkpoint)
    wrap: Callable[[fx.GraphModule], nn.Module]
    if way.compile:
        wrap = Compiler(way.checkpoint == "full")
    elif names:
        wrap = lambda layer: Checkpointed(layer, names)  # noqa: E731
    else:
        return result, layers
    wrapped = tuple(wrap(layer) for layer in layers)
    for place, layer in enumerate(wrapped):
        result.module.set_submodule(segment_name(place), layer)
    return replace(result), wrapped


def narrowed(graph: Graph, way: Way) -> Graph:
    """The graph with casts of its own, where autocast would make them in every product."""
    return graph if way.narrow is None else with_casts(graph, way.narrow)
