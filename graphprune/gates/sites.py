"""Sites: where a gate acts, so that its factor does what removing or shrinking a unit does.

Units of an axis that nothing averages over count where a call sums over them: there the gate scales what the call
reads. Where a norm runs over them, as along the residual stream, the gate scales all that calls with weights put into
the axis, and what each norm makes of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import fx

from graphprune.analysis.analyse import Analysis
from graphprune.analysis.groups import Group, Slot
from graphprune.analysis.linear_calls import read_call
from graphprune.analysis.owners import Owner, owners
from graphprune.axes.inference import Axes
from graphprune.errors import PlanError
from graphprune.ir.operators import SAME_VALUES, bind, operator_key, opname
from graphprune.ir.types import TensorType

NORMS = frozenset({"aten.layer_norm", "aten.rms_norm", "aten.group_norm"})
# Linear in their parameters, all together: to scale the result is to scale them.
_SCALED = NORMS | {"aten.mul", "aten.bmm", "aten.matmul", "aten.conv1d", "aten.conv2d", "aten.convolution"}
_PICKED = frozenset({"aten.index", "aten.index_select"})  # rows of a parameter, such as the weights of some experts
# What leaves units behind without a sum over them: queries of what holds queries, keys and values, say.
_PARTS = frozenset({"aten.slice", "aten.select", "aten.split", "aten.split_with_sizes", "aten.chunk", "aten.unbind"})
# What a parameter is joined to here holds values of its own: the parameter alone is scaled.
_JOINED = frozenset({"aten.add", "aten.cat"})


@dataclass(frozen=True, eq=False)
class Site:
    """A value that a gate scales: along `dim`, index i by the unit `owner[i]`, by none where that is -1.

    The scaled value is read by `call` alone, by all who read the value where that is None. `by_row` says that the rows
    of the batch are told apart along the first dimension. To scale `folds` instead gives the same.
    """

    value: fx.Node
    call: fx.Node | None
    dim: int
    owner: Owner
    by_row: bool
    folds: tuple[Slot, ...]


def find_sites(analysis: Analysis, group: Group) -> tuple[Site, ...]:
    """Where the gate of a group acts. Raises PlanError where its units cannot be scaled."""
    found = tuple((written if group.averaged else read)(analysis, group))
    if not found:
        raise PlanError(f"{group.id} has no gate: no call of the graph reads its units")
    return found


def read(analysis: Analysis, group: Group) -> Iterator[Site]:
    """The inputs of all calls that sum over the units."""
    for call in calls(analysis):
        carriers = [node for node in call.all_input_nodes if dims_of(analysis, group, node)]
        if not carriers or operator_key(call) in _PARTS or keeps(analysis, group, call):
            continue
        weights = [node for node in carriers if parameter_of(node) is not None]
        values = [node for node in carriers if parameter_of(node) is None]
        if len(weights) != 1 or len(values) != 1:
            raise PlanError(f"{group.id} has no gate: at {call.name} two computed values are summed over its units")
        folds = slots_of(analysis, group, weights[0])
        value, scaled = values[0], by_rows(analysis, values[0])
        (dim,) = dims_of(analysis, group, value if scaled else weights[0])
        node = value if scaled else weights[0]
        yield Site(node, call, dim, owner_of(analysis, group, node, dim), scaled, folds)


def written(analysis: Analysis, group: Group) -> Iterator[Site]:
    """What calls with parameters put into the axis, and what norms make of it."""
    for call in calls(analysis):
        if not keeps(analysis, group, call):
            continue
        weights = [n for n in call.all_input_nodes if parameter_of(n) is not None and dims_of(analysis, group, n)]
        key = operator_key(call)
        if (not weights and key not in NORMS) or parameter_of(call) is not None:
            continue
        folds = tuple(slot for node in weights for slot in slots_of(analysis, group, node))
        if read_call(call) is not None or key == "aten.embedding" or key in _SCALED:
            (dim,) = dims_of(analysis, group, call)
            yield Site(call, None, dim, owner_of(analysis, group, call, dim), by_rows(analysis, call), folds)
        elif key in _JOINED:
            for node in weights:
                (dim,) = dims_of(analysis, group, node)
                owner = owner_of(analysis, group, node, dim)
                yield Site(node, call, dim, owner, by_rows(analysis, node), slots_of(analysis, group, node))
        else:
            raise PlanError(f"{group.id} has no gate: nobody knows how {key} at {call.name} scales with its weights")


def calls(analysis: Analysis) -> Iterator[fx.Node]:
    """The calls whose result is a tensor, or several."""
    for node in analysis.graph.nodes:
        if node.op == "call_function" and (node in analysis.inference.axes or node in analysis.inference.outputs):
            yield node


def dims_of(analysis: Analysis, group: Group, node: fx.Node) -> list[int]:
    """The dimensions of a tensor that carry the group's axis."""
    return carrying(analysis, group, analysis.inference.axes.get(node, ()))


def carrying(analysis: Analysis, group: Group, axes: Axes) -> list[int]:
    algebra = analysis.inference.algebra
    atom = algebra.find(analysis.atoms[group.id])
    return [dim for dim, axis in enumerate(axes) if atom in map(algebra.find, algebra.atoms(axis))]


def keeps(analysis: Analysis, group: Group, call: fx.Node) -> bool:
    """Whether the result of a call still has the units, one beside the other.

    Attention has those of queries and keys only where values have them as well.
    """
    if operator_key(call) == "aten.scaled_dot_product_attention":
        query = bind(call)["query"]
        last = len(analysis.inference.axes[query]) - 1
        if last in dims_of(analysis, group, query):
            return False
    outputs = analysis.inference.outputs.get(call, ())
    return bool(dims_of(analysis, group, call)) or any(carrying(analysis, group, axes) for axes in outputs)


def parameter_of(node: fx.Node) -> fx.Node | None:
    """The parameter or buffer that a value is, or is picked from; None for what is computed otherwise."""
    while node.op == "call_function" and (len(tensors_read(node)) == 1 or operator_key(node) in _PICKED):
        node = tensors_read(node)[0]
    return node if node.op == "get_attr" else None


def tensors_read(node: fx.Node) -> list[fx.Node]:
    """The operands that hold a tensor: not the sizes."""
    return [each for each in node.all_input_nodes if isinstance(each.meta.get("value"), TensorType)]


def slots_of(analysis: Analysis, group: Group, node: fx.Node) -> tuple[Slot, ...]:
    """The slots of the group in the parameter behind a node; none where that is another function of it: 1 + w, say."""
    parameter = parameter_of(node)
    assert parameter is not None
    while node is not parameter:
        if opname(node) not in SAME_VALUES and operator_key(node) not in _PICKED:
            return ()
        node = tensors_read(node)[0]
    return tuple(slot for slot in group.slots if slot.name == str(parameter.target))


def owner_of(analysis: Analysis, group: Group, node: fx.Node, dim: int) -> Owner:
    """The unit that owns each index of a dimension."""
    algebra = analysis.inference.algebra
    found = owners(algebra, analysis.inference.axes[node][dim], {})
    return next(owner for atom, owner in found.items() if algebra.find(atom) == algebra.find(analysis.atoms[group.id]))


def by_rows(analysis: Analysis, node: fx.Node) -> bool:
    """Whether the first dimension of a value begins with the rows of the batch."""
    axes, first = analysis.inference.axes.get(node, ()), batch_axes(analysis)
    algebra = analysis.inference.algebra
    factors = algebra.factors(axes[0]) if axes and isinstance(node.meta.get("value"), TensorType) else ()
    return bool(factors) and algebra.find(factors[0]) in first


def batch_axes(analysis: Analysis) -> Sequence[int]:
    """The axes of the rows of what the graph is given."""
    algebra = analysis.inference.algebra
    axes = (analysis.inference.axes.get(node, ()) for node in analysis.graph.placeholders.values())
    firsts = (algebra.factors(given[0]) for given in axes if given)
    return [algebra.find(factors[0]) for factors in firsts if factors]
