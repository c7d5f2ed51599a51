"""Leftovers: what a removed unit holds in a masked model where it is not zero, and the norms that would count it.

A layer norm takes the mean away from every entry, those of removed units too. Where its weight is no parameter alone,
such as 1 + w, nothing makes them zero again; a later norm over them counts what a cut model does not have. The cosine
of a removed unit is 1, and so it is with other functions that are not zero at zero.
"""

from torch import fx

from graphprune.axes.algebra import Axis
from graphprune.axes.inference import Inference
from graphprune.ir.graph import Graph
from graphprune.ir.operators import bind, opname

_REASON = "is averaged over where a removed unit is not zero, and nothing before makes it so"
_KEEPS = {"_to_copy", "mul", "reshape", "view", "expand", "unsqueeze", "squeeze", "transpose", "permute"}
_NOT_ZERO = {"cos", "cosh", "exp", "sigmoid", "hardsigmoid", "softplus", "log_sigmoid"}  # of zero
# What is zero wherever one of the operands is.
_PRODUCTS = {"mul", "linear", "matmul", "bmm", "linear_recurrence"}
_NORMS = {"layer_norm", "rms_norm", "mean"}


def leftover_locks(graph: Graph, inference: Inference) -> dict[Axis, str]:
    """The atomic axes over which a norm or a mean would count leftovers of removed units, with the reason."""
    locks: dict[Axis, str] = {}
    held: dict[fx.Node, frozenset[Axis]] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        name = opname(node)
        own = atoms_of(inference, node)
        found = frozenset(atom for source in node.all_input_nodes for atom in held.get(source, ()))
        if name in _NORMS:
            over = averaged_atoms(inference, node, name)
            for atom in found & over:
                locks.setdefault(atom, f"{_REASON} (at {node.name})")
            found = (found - over) | (over & left_over(node, name, over, found))
        elif name in _NOT_ZERO:
            found = own
        elif name in _PRODUCTS:
            found -= frozenset(
                a for o in node.all_input_nodes for a in atoms_of(inference, o) - held.get(o, frozenset())
            )
        held[node] = found & own
    return locks


def left_over(node: fx.Node, name: str, over: frozenset[Axis], found: frozenset[Axis]) -> frozenset[Axis]:
    """The axes in which the result of a norm is not zero for removed units."""
    weight = bind(node).get("weight")
    if isinstance(weight, fx.Node) and is_zeroed(weight):
        return frozenset()
    return over if name == "layer_norm" else found


def averaged_atoms(inference: Inference, node: fx.Node, name: str) -> frozenset[Axis]:
    """The atomic axes that a norm or a mean runs over."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    axes, arguments = inference.axes[source], bind(node)
    dims = range(-len(arguments["normalized_shape"]), 0) if name != "mean" else arguments.get("dim") or range(len(axes))
    return frozenset(a for d in ([dims] if isinstance(dims, int) else dims) for a in inference.algebra.atoms(axes[d]))


def atoms_of(inference: Inference, node: fx.Node) -> frozenset[Axis]:
    held = (inference.axes.get(node, ()), *inference.outputs.get(node, ()))
    return frozenset(atom for axes in held for axis in axes for atom in inference.algebra.atoms(axis))


def is_zeroed(node: fx.Node) -> bool:
    """Say whether a tensor is zero for removed units: a parameter, or a product with one."""
    if node.op == "get_attr":
        return True
    name = opname(node)
    return name in _KEEPS and any(map(is_zeroed, node.all_input_nodes))
