"""The cost polynomials of a graph, read off its axes."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from torch import fx

from graphprune.analysis.cost import Costs, Polynomial, Storage, Term
from graphprune.analysis.groups import Group
from graphprune.analysis.kinds import Kinds
from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.axes.algebra import Algebra, Axis
from graphprune.axes.inference import Inference
from graphprune.ir.contract import PREFIX, is_state
from graphprune.ir.graph import Graph
from graphprune.ir.operators import opname
from graphprune.ir.sizes import symbol
from graphprune.ir.types import tensor_type

Terms = Counter[Term]  # summed with `update`: `+` would drop negative terms
_PAST = symbol("past")
_CONTRACTIONS = {"linear": 1, "addmm": 0, "mm": 0, "matmul": 0, "bmm": 1, "baddbmm": 1}


def build_costs(graph: Graph, inference: Inference, groups: Mapping[Axis, Group], kinds: Kinds) -> Costs:
    """Parameters, bytes, multiplications and cache bytes as polynomials over unlocked group ids and branch ids."""
    sizes = AxisSizes(inference, {atom: g.id for atom, g in groups.items() if g.locked is None})
    parameters = set(graph.parameters())
    count, weight_bytes = Terms(), Terms()
    for node in graph.module.graph.find_nodes(op="get_attr"):
        name = str(node.target)
        terms = sizes.product(inference.axes[node], presence(kinds.homes.get(name, ())))
        weight_bytes.update(scale(terms, itemsize(node)))
        if name in parameters:
            count.update(terms)
    return Costs(
        Polynomial(count),
        Polynomial(weight_bytes),
        macs(graph, sizes, kinds),
        cache_bytes(graph, sizes, kinds),
        storage(graph, sizes, kinds),
    )


def storage(graph: Graph, sizes: "AxisSizes", kinds: Kinds) -> Storage:
    """Parameters by what reads them: linear layers alone, a lookup of rows, or anything else."""
    linear = {call.weight: call.transposed for call in find_linear_calls(graph, shared=True)}
    parameters = set(graph.parameters())
    found: dict[str, Terms] = defaultdict(Terms)
    for node in graph.module.graph.find_nodes(op="get_attr"):
        name = str(node.target)
        axes = sizes.inference.axes[node]
        home = presence(kinds.homes.get(name, ()))
        if name not in parameters:
            found["buffer_bytes"].update(scale(sizes.product(axes, home), itemsize(node)))
        elif any("embedding" in opname(user) for user in node.users) and len(axes) == 2:
            found["tables"].update(sizes.product(axes, home))
            found["rows"].update(sizes.product(axes[:1], home))
        elif name in linear:
            found["matrices"].update(sizes.product(axes, home))
            found["outputs"].update(sizes.product(axes[1:] if linear[name] else axes[:1], home))
        else:
            found["others"].update(sizes.product(axes, home))
    calls = sum(node.op == "call_function" for node in graph.nodes)
    return Storage(**{name: Polynomial(terms) for name, terms in found.items()}, operators=calls)


def macs(graph: Graph, sizes: "AxisSizes", kinds: Kinds) -> Polynomial:
    """Multiplications of the products with weights, per token (per image for vision models)."""
    total = Terms()
    for node in graph.nodes:
        weight = weight_of(node)
        if weight is None:
            continue
        name = str(weight.target)
        home = presence(kinds.homes.get(name, ()))
        positions = [s for s in tensor_type(node).shape[2:] if isinstance(s, int)] if "conv" in opname(node) else []
        total.update(scale(sizes.product(sizes.inference.axes[weight], home), math.prod(positions)))
    return Polynomial(total)


def weight_of(node: fx.Node) -> fx.Node | None:
    """The weight that a contraction multiplies with."""
    if opname(node) not in _CONTRACTIONS and not opname(node).startswith("conv"):
        return None
    operands = [n for n in node.all_input_nodes if n.op == "get_attr" and len(tensor_type(n).shape) > 1]
    return operands[0] if operands else None


def cache_bytes(graph: Graph, sizes: "AxisSizes", kinds: Kinds) -> Polynomial:
    """Bytes that one token of context occupies in the cache."""
    owner = {cache: b.id for b in kinds.branches for cache in b.caches}
    total = Terms()
    for name, node in graph.placeholders.items():
        shape = tensor_type(node).shape
        if is_state(name) and _PAST in shape:
            axes = sizes.inference.axes[node]
            entry = name.removeprefix(PREFIX)
            home = presence((owner[entry],) if entry in owner else ())
            kept = tuple(axis for axis, size in zip(axes, shape, strict=True) if isinstance(size, int))
            total.update(scale(sizes.product(kept, home), itemsize(node)))
    return Polynomial(total)


def presence(branches: tuple[str, ...]) -> Terms:
    """1 while any of these branches is there, 0 when all are dropped: one minus the product of (1 - branch)."""
    absent = Terms({(): 1})
    for branch in branches:
        absent = multiply(absent, Terms({(): 1, (branch,): -1}))
    if not branches:
        return absent
    return Terms({term: (term == ()) - count for term, count in absent.items() if (term == ()) != count})


def itemsize(node: fx.Node) -> int:
    return tensor_type(node).dtype.itemsize


def scale(terms: Terms, factor: int) -> Terms:
    return Terms({term: count * factor for term, count in terms.items()})


def multiply(left: Terms, right: Terms) -> Terms:
    result = Terms()
    for a, x in left.items():
        for b, y in right.items():
            result[tuple(sorted((*a, *b)))] += x * y
    return result


class AxisSizes:
    """The size of an axis as a polynomial over the groups inside it."""

    def __init__(self, inference: Inference, ids: Mapping[Axis, str]) -> None:
        self.inference, self.algebra, self.ids = inference, inference.algebra, ids
        self.known: dict[Axis, Terms] = {}

    def product(self, axes: Iterable[Axis], factor: Terms | None = None) -> Terms:
        """The product of the axes' sizes, and of a further factor."""
        result = Terms({(): 1}) if factor is None else factor
        for axis in axes:
            result = multiply(result, self.of(axis))
        return result

    def of(self, axis: Axis) -> Terms:
        root = self.algebra.find(axis)
        if root not in self.known:
            self.known[root] = self.build(self.algebra, root)
        return self.known[root]

    def build(self, algebra: Algebra, root: Axis) -> Terms:
        form, size = algebra.form(root), algebra.size(root)
        if form is None:
            assert isinstance(size, int)
            return Terms({(self.ids[root],): 1}) if root in self.ids else Terms({(): size})
        if form[0] == "product":
            return self.product(algebra.factors(root))
        total = Terms()
        for part in algebra.parts(root):
            total.update(self.of(part))
        return total
