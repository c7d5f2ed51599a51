"""Multiples: widths that kernels for mixtures of experts can run on.

Transformers runs experts with torch's grouped products by default, which want rows of a multiple of 16 bytes wherever
they read: in the stacked weights, and in what these are multiplied with.
"""

import math
from collections.abc import Iterator

from torch import fx

from graphprune.analysis.choices import chosen_atoms
from graphprune.axes.algebra import Algebra, Axis
from graphprune.axes.inference import Inference
from graphprune.ir.graph import Graph
from graphprune.ir.operators import SAME_VALUES, opname
from graphprune.ir.types import tensor_type

# 16 bytes in the narrowest type that experts are run in, so that a checkpoint loads in float32 and in bfloat16.
ALIGNED = 8
_PRODUCTS = {"bmm", "matmul", "baddbmm"}


def find_multiples(graph: Graph, inference: Inference) -> dict[Axis, int]:
    """For each atomic axis of a stack of expert weights, what its width should be a multiple of; 1 is left out.

    A width that is none to begin with keeps what it has in common with one: 44 stays a multiple of 4.
    """
    algebra, found = inference.algebra, dict[Axis, int]()
    for stack in find_stacks(graph, inference):
        for axis in inference.axes[stack][1:]:
            for atom, step in steps(algebra, axis):
                found[atom] = math.lcm(found.get(atom, 1), step)
    return {atom: step for atom, step in found.items() if step > 1}


def find_stacks(graph: Graph, inference: Inference) -> Iterator[fx.Node]:
    """Weights of three dimensions whose first is chosen from, and of which the chosen matrices are multiplied with."""
    chosen = chosen_atoms(inference)
    for stack in graph.module.graph.find_nodes(op="get_attr"):
        shape, axes = tensor_type(stack).shape, inference.axes[stack]
        if len(shape) != 3 or chosen.isdisjoint(inference.algebra.atoms(axes[0])):
            continue
        if any(is_multiplied(user) for user in stack.users if opname(user) in ("index", "index_select")):
            yield stack


def is_multiplied(node: fx.Node) -> bool:
    """Say whether a batched product reads this tensor, as it is or in another shape."""
    return any(
        opname(user) in _PRODUCTS or (opname(user) in SAME_VALUES and is_multiplied(user)) for user in node.users
    )


def steps(algebra: Algebra, axis: Axis) -> Iterator[tuple[Axis, int]]:
    """The multiple of each atomic axis that keeps this axis aligned, beside the factors that do not change."""
    for part in algebra.parts(axis):
        factors = algebra.factors(part)
        for factor in factors:
            beside = math.prod(int(str(algebra.size(f))) for f in factors if f != factor)
            for atom in algebra.atoms(factor):
                step = ALIGNED // math.gcd(ALIGNED, beside)
                yield atom, math.gcd(step, int(str(algebra.size(atom))))
