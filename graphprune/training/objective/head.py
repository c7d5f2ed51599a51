"""The head: what makes a token's logits of its last hidden value alone, split off from the rest of the model."""

from dataclasses import dataclass
from typing import final

from torch import Tensor, fx, nn

from graphprune.analysis.linear_calls import read_call
from graphprune.ir.graph import Graph
from graphprune.ir.operators import operator_key
from graphprune.running.forms.causal import with_outputs

# Between the head's product and the logits: what looks at no other token and no other word.
_ALONE = frozenset({"aten.mul", "aten.div", "aten.tanh", "aten.add", "aten.sub", "aten.to", "aten._to_copy"})
_HIDDEN = "hidden"


@final
class Head(nn.Module):
    """From hidden values [tokens, width] to logits [tokens, words]; shares its parameters with the graph."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, hidden: Tensor) -> Tensor:
        return self.module(hidden)  # type: ignore[no-any-return]

    def trained(self) -> tuple[Tensor, ...]:
        """The parameters that are trained, tied ones once."""
        return tuple(each for each in self.parameters() if each.requires_grad)


@dataclass(frozen=True, eq=False)
class Split:
    """A graph up to the hidden values, its one output, and the head that follows."""

    body: Graph
    head: Head


def split_head(graph: Graph) -> Split | None:
    """The two parts of a language model; None where the logits are not one product of each token's own values."""
    logits = graph.returned[graph.outputs.index("logits")]
    nodes = head_nodes(logits)
    if nodes is None:
        return None
    hidden, own = nodes
    return Split(with_outputs(graph, (_HIDDEN,), (hidden.name,)), make_head(graph, hidden, own, logits))


def head_nodes(logits: fx.Node) -> tuple[fx.Node, list[fx.Node]] | None:
    """The hidden values, and the nodes behind them up to the logits, in order."""
    node, chain = logits, list[fx.Node]()
    while (call := read_call(node)) is None:
        inner = [each for each in node.all_input_nodes if each.op != "get_attr"]
        if node.op != "call_function" or operator_key(node) not in _ALONE or len(inner) != 1:
            return None
        if any(has_places(each) for each in node.all_input_nodes if each.op == "get_attr"):
            return None
        chain.append(node)
        node = inner[0]
    return call.x, [*side_nodes(node, call.x), node, *reversed(chain)]


def has_places(constant: fx.Node) -> bool:
    """Whether a constant has more than the one dimension of words, so that tokens may differ by their places."""
    return len(getattr(constant.meta.get("value"), "shape", (0, 0))) > 1


def side_nodes(node: fx.Node, hidden: fx.Node) -> list[fx.Node]:
    """What else a call reads, such as a weight that is turned, in order."""
    found: list[fx.Node] = []
    for each in node.all_input_nodes:
        if each is not hidden and each.op == "call_function":
            found += [*side_nodes(each, hidden), each]
    return found


def make_head(graph: Graph, hidden: fx.Node, nodes: list[fx.Node], logits: fx.Node) -> Head:
    made, tensors = fx.Graph(), dict[str, Tensor]()
    copies = {hidden: made.placeholder(_HIDDEN)}
    known = graph.tensors()
    for node in nodes:
        for constant in (each for each in node.all_input_nodes if each.op == "get_attr" and each not in copies):
            tensors[str(constant.target)] = known[str(constant.target)]
            copies[constant] = made.node_copy(constant)
        copies[node] = made.node_copy(node, lambda each: copies[each])
    made.output(copies[logits])
    return Head(fx.GraphModule(dict(tensors), made))
