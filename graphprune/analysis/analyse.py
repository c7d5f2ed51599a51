"""Analysis: from inferred axes to groups, branches and costs. `analyze(graph)` is the one way in."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import fx

from graphprune.analysis.alignment import find_multiples
from graphprune.analysis.branches import find_branches
from graphprune.analysis.choices import Chosen, find_chosen
from graphprune.analysis.groups import Constant, Group, Groups, Kind, Slot
from graphprune.analysis.kinds import Kinds
from graphprune.analysis.layers import number_layers
from graphprune.analysis.locks import collect_locks, lock_reductions
from graphprune.analysis.owners import Carrier, find_carriers
from graphprune.analysis.polynomials import build_costs
from graphprune.axes.algebra import Algebra, Axis
from graphprune.axes.inference import Axes, Inference, infer
from graphprune.axes.rules import all_rules
from graphprune.ir.graph import Graph


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything that is known about a graph's axes: the inference, the groups, and the atom behind each group."""

    graph: Graph
    inference: Inference
    groups: Groups
    atoms: Mapping[str, Axis]
    chosen: Chosen


def analyze(graph: Graph) -> Groups:
    """Find the groups, the residual branches and the cost polynomials of a graph. Pure; milliseconds to a second."""
    return analyze_axes(graph).groups


def analyze_axes(graph: Graph) -> Analysis:
    """The same, together with the axes it was derived from; made once for a graph."""
    return replace(graph.derive(find_analysis), graph=graph)


def find_analysis(graph: Graph) -> Analysis:
    inference = infer(graph, all_rules())
    kinds = Kinds(graph, inference, find_branches(graph))
    parameters = frozenset(graph.parameters())
    everywhere = find_carriers(graph, inference)
    carriers = {a: slots for a, slots in everywhere.items() if any(name in parameters for name, _, _ in slots)}
    locks, constants = collect_locks(graph, inference, kinds), collect_constants(graph, inference)
    chosen = find_chosen(inference, frozenset((*locks, *everywhere)))
    locks, multiples = lock_reductions(locks, inference, chosen), find_multiples(graph, inference)
    averaged = {a for axis in inference.algebra.averaged for a in inference.algebra.atoms(axis)}
    found: dict[Axis, Group] = {}
    taken: set[str] = set()
    for atom, slots in carriers.items():
        group = make_group(inference.algebra, atom, slots, parameters, kinds, taken)
        found[atom] = replace(
            group,
            constants=constants.get(atom, ()),
            averaged=atom in averaged,
            locked=locks.get(atom),
            chosen=atom in chosen.atoms,
            least=chosen.least.get(atom, 1),
            multiple=multiples.get(atom, 1),
        )
        taken.add(group.id)
    costs = build_costs(graph, inference, found, kinds)
    branches = number_layers(graph, kinds.branches, tuple(found.values()))
    groups = Groups(tuple(found.values()), branches, costs)
    return Analysis(graph, inference, groups, {group.id: atom for atom, group in found.items()}, chosen)


def make_group(
    algebra: Algebra, atom: Axis, slots: list[Carrier], parameters: frozenset[str], kinds: Kinds, taken: set[str]
) -> Group:
    """The group of one atomic axis, before its locks are known."""
    names = [name for name, _, _ in slots if name in parameters]
    kind = kinds.of(atom, names)
    first = next(entry for entry in slots if entry[0] in parameters)
    size = algebra.size(atom)
    assert isinstance(size, int)
    id = unique_id(first, kind, size, taken)
    made = tuple(Slot(name, dim, owner) for name, dim, owner in slots)
    return Group(id, size, made, (), kind, common_scope(names), kinds.block(names), False, None)


def unique_id(first: Carrier, kind: Kind, units: int, taken: set[str]) -> str:
    """Parameter and dimension, and the kind where the dimension holds more than this axis; stable across rewrites."""
    name, dim, owner = first
    plain = f"{name}:{dim}"
    whole = len(owner) == units
    candidate = plain if whole else f"{plain}/{kind}"
    number = 2
    while candidate in taken:
        candidate = f"{plain}/{kind}{number}"
        number += 1
    return candidate


def common_scope(names: list[str]) -> str:
    """The innermost module that holds all of these parameters."""
    paths = [name.split(".")[:-1] for name in names]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def collect_constants(graph: Graph, inference: Inference) -> dict[Axis, tuple[Constant, ...]]:
    """The integers in the graph that follow an axis: sizes in views, slices, splits and norms."""
    found: dict[Axis, list[Constant]] = defaultdict(list)
    for node in graph.nodes:
        axes = inference.axes.get(node, ())
        if node.op != "call_function" or not axes:
            continue
        for path, axis in sized_arguments(node, axes):
            for atom in inference.algebra.atoms(axis):
                found[atom].append(Constant(node.name, path))
    return {atom: tuple(constants) for atom, constants in found.items()}


def sized_arguments(node: fx.Node, axes: Axes) -> list[tuple[tuple[int, ...], Axis]]:
    """The list argument of a shape operator, entry by entry, with the axis each entry is the size of."""
    result: list[tuple[tuple[int, ...], Axis]] = []
    for index, argument in enumerate(node.args):
        if isinstance(argument, (list, tuple)) and len(argument) == len(axes):
            result += [((index, d), axes[d]) for d, a in enumerate(argument) if isinstance(a, int) and a > 1]
    return result
