"""Owners: which unit of which axis owns each index of each parameter dimension."""

from collections import defaultdict

import numpy
from numpy.typing import NDArray

from graphprune.axes.algebra import Algebra, Axis
from graphprune.axes.inference import Inference
from graphprune.ir.graph import Graph

Owner = NDArray[numpy.int64]
Carrier = tuple[str, int, Owner]


def find_carriers(graph: Graph, inference: Inference) -> dict[Axis, list[Carrier]]:
    """For each atomic axis, the parameter and buffer dimensions that carry it, in graph order."""
    carriers: dict[Axis, list[Carrier]] = defaultdict(list)
    cache: dict[Axis, dict[Axis, Owner]] = {}
    for node in graph.module.graph.find_nodes(op="get_attr"):
        for dim, axis in enumerate(inference.axes[node]):
            for atom, owner in owners(inference.algebra, axis, cache).items():
                carriers[atom].append((str(node.target), dim, owner))
    return carriers


def owners(algebra: Algebra, axis: Axis, cache: dict[Axis, dict[Axis, Owner]]) -> dict[Axis, Owner]:
    """For each atomic axis inside this one, which of its units owns each index, -1 for none."""
    root = algebra.find(axis)
    if root not in cache:
        form, size = algebra.form(root), algebra.size(root)
        assert isinstance(size, int)
        if form is None:
            cache[root] = {root: numpy.arange(size)} if size > 1 else {}
        else:
            place = place_factor if form[0] == "product" else place_part
            cache[root] = place(algebra, algebra.factors(root) if form[0] == "product" else algebra.parts(root), cache)
    return cache[root]


def place_factor(
    algebra: Algebra, factors: tuple[Axis, ...], cache: dict[Axis, dict[Axis, Owner]]
) -> dict[Axis, Owner]:
    """Row-major: a factor's index repeats for everything inside it and tiles for everything outside it."""
    sizes = [int(str(algebra.size(f))) for f in factors]
    result: dict[Axis, Owner] = {}
    for position, factor in enumerate(factors):
        outer, inner = int(numpy.prod(sizes[:position])), int(numpy.prod(sizes[position + 1 :]))
        for atom, owner in owners(algebra, factor, cache).items():
            spread = numpy.tile(numpy.repeat(owner, inner), outer)
            result[atom] = numpy.maximum(result[atom], spread) if atom in result else spread
    return result


def place_part(algebra: Algebra, parts: tuple[Axis, ...], cache: dict[Axis, dict[Axis, Owner]]) -> dict[Axis, Owner]:
    sizes = [int(str(algebra.size(p))) for p in parts]
    result: dict[Axis, Owner] = {}
    for position, part in enumerate(parts):
        start = sum(sizes[:position])
        for atom, owner in owners(algebra, part, cache).items():
            whole = result.setdefault(atom, numpy.full(sum(sizes), -1, dtype=numpy.int64))
            whole[start : start + sizes[position]] = owner
    return result
