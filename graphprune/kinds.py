"""Kinds: what an axis is - heads, MLP channels, residual width - derived from where it stands in the graph."""

from collections.abc import Mapping

from torch import fx

from graphprune.axes import Axis
from graphprune.branches import exclusive_nodes
from graphprune.groups import Branch, Kind
from graphprune.inference import Inference
from graphprune.ir import Graph


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
        skips = [self.nodes[b.add] for b in branches]
        self.residual = frozenset(a for node in skips for a in self.atoms_at(node, -1))
        # The branch that a parameter disappears with, as nothing else reads it.
        self.home = home_branches(graph, branches, self.nodes)

    def atoms_at(self, node: fx.Node, dim: int) -> tuple[Axis, ...]:
        axes = self.inference.axes.get(node, ())
        if len(axes) < abs(dim):
            return ()
        axis = axes[dim]
        assert isinstance(axis, int)
        return self.inference.algebra.atoms(axis)

    def attention_axes(self) -> tuple[frozenset[Axis], frozenset[Axis], frozenset[Axis]]:
        """Key heads, query heads per key head, and head sizes: from attention calls and from the cache."""
        heads: set[Axis] = set()
        queries: set[Axis] = set()
        sizes: set[Axis] = set()
        for node in self.graph.nodes:
            if "scaled_dot_product_attention" in str(node.target):
                query, key, value = node.args[:3]
                heads.update(self.atoms_at(key, -3))  # type: ignore[arg-type]
                queries.update(self.atoms_at(query, -3))  # type: ignore[arg-type]
                sizes.update(self.atoms_at(key, -1) + self.atoms_at(value, -1))  # type: ignore[arg-type]
        cached = {a for n, p in self.graph.placeholders.items() if n.startswith("past_") for a in self.atoms_at(p, 1)}
        for name, placeholder in self.graph.placeholders.items():
            if name.startswith("past_key_values."):
                sizes.update(self.atoms_at(placeholder, 3))
        queries -= cached if cached else heads
        return frozenset(cached or heads), frozenset(queries), frozenset(sizes)

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
        return "mlp" if self.block(parameters) else "other"

    def block(self, parameters: list[str]) -> str | None:
        """The residual branch that holds all of these parameters."""
        homes = {self.home.get(name) for name in parameters}
        return homes.pop() if len(homes) == 1 else None


def home_branches(graph: Graph, branches: tuple[Branch, ...], nodes: Mapping[str, fx.Node]) -> dict[str, str]:
    """For each parameter that only one branch reads, that branch."""
    parameters, found = set(graph.parameters()), dict[str, str]()
    for branch in branches:
        inside = exclusive_nodes(graph, nodes[branch.branch])
        found |= {str(n.target): branch.id for n in inside if n.op == "get_attr" and str(n.target) in parameters}
    return found
