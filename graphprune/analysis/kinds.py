"""Kinds: what an axis is - heads, MLP channels, residual width - derived from where it stands in the graph."""

from collections.abc import Mapping

from torch import fx

from graphprune.analysis.branches import SIDE_READ, SIDE_WRITE, exclusive_nodes, side_nodes, uncast, upstream
from graphprune.analysis.groups import Branch, Kind
from graphprune.axes.algebra import Axis
from graphprune.axes.inference import Inference
from graphprune.ir.contract import is_attended
from graphprune.ir.graph import Graph
from graphprune.ir.operators import opname
from graphprune.ir.recurrence import RECURRENCE
from graphprune.ir.types import tensor_type


class Kinds:
    """What each atomic axis is, derived from where it stands in the graph."""

    def __init__(self, graph: Graph, inference: Inference, branches: tuple[Branch, ...]) -> None:
        self.graph, self.inference, self.branches = graph, inference, branches
        self.nodes = {node.name: node for node in graph.nodes}
        algebra = inference.algebra
        ids = [axis for node, axis in inference.indexed.items() if node.name == "input_ids"]
        self.vocabulary = frozenset(a for axis in ids for a in algebra.atoms(axis))
        chosen = [axis for node, axis in inference.indexed.items() if node.op != "placeholder"]
        self.experts = frozenset(a for axis in chosen for a in algebra.atoms(axis))
        self.heads, self.queries, self.sizes = self.attention_axes()
        stream = [node for b in branches for node in (self.nodes[b.add], uncast(self.nodes[b.skip]))]
        self.residual = frozenset(a for node in stream for a in self.atoms_at(node, channel_dimension(node)))
        self.siblings = self.head_siblings()
        attributes = graph.module.graph.find_nodes(op="get_attr")
        self.matrices = frozenset(str(n.target) for n in attributes if len(n.meta["value"].shape) > 1)
        # The branches that a parameter disappears with, when they are all dropped.
        self.homes = home_branches(graph, branches, self.nodes)

    def atoms_at(self, node: fx.Node, dim: int) -> tuple[Axis, ...]:
        axes = self.inference.axes.get(node, ())
        if len(axes) < abs(dim):
            return ()
        return self.inference.algebra.atoms(axes[dim])

    def attention_axes(self) -> tuple[frozenset[Axis], frozenset[Axis], frozenset[Axis]]:
        """Key heads, query heads per key head, and head sizes: from attention calls and from the cache."""
        heads: set[Axis] = set()
        queries: set[Axis] = set()
        sizes: set[Axis] = set()
        for node in self.graph.nodes:
            if "scaled_dot_product_attention" in opname(node):
                query, key, value = [operand for operand in node.args[:3] if isinstance(operand, fx.Node)]
                heads.update(self.atoms_at(key, -3))
                queries.update(self.atoms_at(query, -3))
                sizes.update(self.atoms_at(key, -1) + self.atoms_at(value, -1))
        cached = {a for n, p in self.graph.placeholders.items() if is_attended(n) for a in self.atoms_at(p, 1)}
        for name, placeholder in self.graph.placeholders.items():
            if is_attended(name):
                sizes.update(self.atoms_at(placeholder, 3))
        queries -= cached if cached else heads
        states = self.recurrent_axes()
        return frozenset(cached or heads) | states[0], frozenset(queries), frozenset(sizes) | states[1]

    def recurrent_axes(self) -> tuple[frozenset[Axis], frozenset[Axis]]:
        """Heads, and sizes of keys and values, of recurrent states; a state without heads has channels for values.

        It is told from a state of which one head is left by its decay, which each channel has for itself.
        """
        heads: set[Axis] = set()
        sizes: set[Axis] = set()
        for node in self.graph.nodes:
            if node.target is RECURRENCE:
                decay, state = node.args[3:5]
                assert isinstance(decay, fx.Node)
                assert isinstance(state, fx.Node)
                single = tensor_type(state).shape[1] == 1 and tensor_type(decay).shape[-1] != 1
                heads.update(() if single else self.atoms_at(state, 1))
                sizes.update(atom for dim in ((2,) if single else (2, 3)) for atom in self.atoms_at(state, dim))
        return frozenset(heads), frozenset(sizes)

    def head_siblings(self) -> frozenset[Axis]:
        """Axes that stand beside key heads in a product: query heads of models that multiply scores themselves.

        Where one key head is left it is no axis, and they stand beside the size of a head alone.
        """
        algebra = self.inference.algebra
        found: set[Axis] = set()
        for node in self.graph.module.graph.find_nodes(op="get_attr"):
            for axis in self.inference.axes[node]:
                parts = [frozenset(algebra.factors(part)) for part in algebra.parts(axis)]
                beside = set(algebra.atoms(axis)) & self.heads
                found |= {f for part in parts if beside or part & self.sizes for f in part}
        return frozenset(found) - self.heads - self.sizes

    def of(self, atom: Axis, parameters: list[str]) -> Kind:
        """The kind of an axis that these parameters carry."""
        table: tuple[tuple[Kind, frozenset[Axis]], ...] = (
            ("vocabulary", self.vocabulary),
            ("residual", self.residual),
            ("experts", self.experts),
            ("attention", self.heads),
            ("query", self.queries),
            ("head_dim", self.sizes),
        )
        for kind, atoms in table:
            if atom in atoms:
                return kind
        if atom in self.siblings:  # a part of a fused projection, or queries where the output projection has them too
            return "query" if len(self.matrices.intersection(parameters)) > 1 else "other"
        if all(name.endswith((SIDE_READ, SIDE_WRITE)) for name in parameters):  # no channels: a rank
            return "other"
        return "mlp" if self.block(parameters) else "other"

    def block(self, parameters: list[str]) -> str | None:
        """The residual branch that holds all of these parameters."""
        homes = {self.homes.get(name, ()) for name in parameters}
        only = homes.pop() if len(homes) == 1 else ()
        return only[0] if len(only) == 1 else None


def channel_dimension(node: fx.Node) -> int:
    """Where the channels are: in the second dimension of an image, else in the last."""
    return 1 if len(node.meta["value"].shape) > 3 else -1


def home_branches(
    graph: Graph, branches: tuple[Branch, ...], nodes: Mapping[str, fx.Node]
) -> dict[str, tuple[str, ...]]:
    """For each parameter that only residual branches of one sum read, these branches: one, or parallel ones."""
    sums: dict[str, list[Branch]] = {}
    for branch in branches:
        sums.setdefault(branch.add, []).append(branch)
    found: dict[str, tuple[str, ...]] = {}
    parameters = frozenset(graph.parameters())
    aside = side_nodes(graph)
    for parallel in sums.values():
        own = {b.id: names_among(parameters, exclusive_nodes(graph, nodes[b.branch], aside=aside)) for b in parallel}
        found |= {name: (id,) for id, names in own.items() for name in names}
        if len(parallel) > 1:
            together = exclusive_nodes(graph, *(nodes[b.branch] for b in parallel), aside=aside)
            reads = {b.id: names_among(parameters, upstream(nodes[b.branch])) for b in parallel}
            shared = names_among(parameters, together) - found.keys()
            found |= {name: tuple(id for id in own if name in reads[id]) for name in shared}
    return found


def names_among(parameters: frozenset[str], nodes: set[fx.Node]) -> set[str]:
    return {str(n.target) for n in nodes if n.op == "get_attr"} & parameters
