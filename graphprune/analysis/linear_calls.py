"""Linear calls: where a graph multiplies activations by a weight matrix of its own, whatever the operator is called."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from graphprune.ir.graph import Graph
from graphprune.ir.operators import bind, operator_key
from graphprune.ir.types import TensorType


@dataclass(frozen=True)
class LinearCall:
    """`node` is `x` times the parameter `weight`, plus `bias` where there is one, over the last dimension of `x`.

    The matrix is stored as [outputs, inputs], or as [inputs, outputs] where `transposed`.
    """

    node: fx.Node
    x: fx.Node
    weight: str
    bias: str | None
    transposed: bool

    def matrix(self, tensor: Tensor) -> Tensor:
        """The weight as [outputs, inputs]; its own inverse."""
        return tensor.T if self.transposed else tensor


def find_linear_calls(graph: Graph, shared: bool = False) -> tuple[LinearCall, ...]:
    """Every linear call whose weight is a matrix that nothing else reads, in graph order.

    Weights that are tied or used twice are left out unless `shared`: no single call can say what they should be.
    """
    tensors = graph.tensors()
    uses: dict[int, int] = {}
    for node in graph.module.graph.find_nodes(op="get_attr"):
        identity = id(tensors[str(node.target)])
        uses[identity] = uses.get(identity, 0) + sum(
            max(1, len(user.users)) if turned(user) else 1 for user in node.users
        )
    own = {id(parameter) for parameter in graph.parameters().values()}
    found = (read_call(node) for node in graph.nodes if node.op == "call_function")
    return tuple(
        call
        for call in found
        if call is not None and id(tensors[call.weight]) in own and (shared or uses[id(tensors[call.weight])] == 1)
    )


def read_call(node: fx.Node) -> LinearCall | None:
    """The linear call that this node is, if it is one."""
    key = operator_key(node)
    if key not in _OPERANDS:
        return None
    x_name, weight_name, bias_name, transposed = _OPERANDS[key]
    arguments = bind(node)
    x, weight = arguments[x_name], arguments[weight_name]
    while isinstance(weight, fx.Node) and operator_key(weight) in _TURNS and turns(weight):
        weight, transposed = weight.args[0], not transposed
    bias = arguments.get(bias_name) if bias_name else None
    plain = all(arguments.get(scale, 1) == 1 for scale in ("alpha", "beta"))
    if not plain or not is_matrix(weight) or x.op == "get_attr" or (bias is not None and bias.op != "get_attr"):
        return None
    return LinearCall(node, x, str(weight.target), None if bias is None else str(bias.target), transposed)


def turned(node: fx.Node) -> bool:
    """Whether this node is a parameter with its dimensions swapped: its readers are those of the parameter."""
    return node.op == "call_function" and operator_key(node) in _TURNS and node.args[0].op == "get_attr"  # type: ignore[union-attr]


def turns(node: fx.Node) -> bool:
    """Whether this swaps the two dimensions of a matrix."""
    dims = [d % 2 for d in node.args[1:] if isinstance(d, int)]
    order = next((list(d) for d in node.args[1:] if isinstance(d, (list, tuple))), None)
    value = node.meta.get("value")
    whole = isinstance(value, TensorType) and len(value.shape) == 2
    return whole and (sorted(dims) in ([], [0, 1]) if order is None else [d % 2 for d in order] == [1, 0])


def is_matrix(node: object) -> bool:
    if not isinstance(node, fx.Node):
        return False
    value = node.meta.get("value")
    return node.op == "get_attr" and isinstance(value, TensorType) and len(value.shape) == 2


_TURNS = frozenset({"aten.t", "aten.transpose", "aten.permute", "aten.numpy_T"})
_OPERANDS: Mapping[str, tuple[str, str, str | None, bool]] = {
    "aten.linear": ("input", "weight", "bias", False),
    "aten.addmm": ("mat1", "mat2", "self", True),
    "aten.mm": ("self", "mat2", None, True),
    "aten.matmul": ("self", "other", None, True),
}
