"""What is computed again in backward: cheap values, or all within a layer.

A product of matrices costs its width times what reading its result costs; all that lies between two products, norms,
rotations, gates, costs about as much as reading it. So `selective` keeps what products make and recomputes the rest
(Korthikanti et al., arXiv 2205.05198, does so for attention alone). `full` keeps what goes from layer to layer (Chen et
al., arXiv 1604.06174): one more forward.
"""

from typing import Literal

import torch
from torch import fx

from graphprune.ir.graph import Graph, get_tensor
from graphprune.ir.operators import operator_key
from graphprune.running.forms.causal import ATTENTION, argument
from graphprune.training.execution.layer_modules import assign

Checkpoint = Literal["auto", "off", "selective", "full"]


def operators(names: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in names.split())


VIEWS = operators(
    "view reshape transpose permute slice select unsqueeze squeeze expand t alias split chunk unbind contiguous"
)
_ELEMENTWISE = operators("add sub mul div neg pow rsqrt sqrt exp tanh sigmoid relu silu gelu to _to_copy clone where")
_ROWS = operators("mean sum cat rms_norm layer_norm native_layer_norm softmax _softmax")
_CHEAP = VIEWS | _ELEMENTWISE | _ROWS | {"operator.getitem"}
_DEEPEST = 32  # values on the way from what is kept: a model without sums is not computed anew from its embedding on


def recomputed(graph: Graph, checkpoint: Checkpoint) -> frozenset[str]:
    """The names of the nodes whose values need not be held for backward."""
    if checkpoint == "off":
        return frozenset()
    trained = differentiable(graph)
    within = inner(graph) if checkpoint == "full" else frozenset[str]()
    depth: dict[fx.Node, int] = {}
    for node in (node for node in graph.nodes if node in trained and node.op == "call_function"):
        deep = 1 + max((depth.get(each, 0) for each in node.all_input_nodes), default=0)
        cheap = operator_key(node) in _CHEAP and not is_sum(node, trained) and deep <= _DEEPEST
        if node.name in within or (cheap and not within):
            depth[node] = deep
    return frozenset(node.name for node in depth)


def differentiable(graph: Graph) -> set[fx.Node]:
    """The nodes whose values depend on what is trained."""
    found = set[fx.Node]()
    for node in graph.nodes:
        own = node.op == "get_attr" and get_tensor(graph.module, str(node.target)).requires_grad
        if own or any(each in found for each in node.all_input_nodes):
            found.add(node)
    return found


def is_sum(node: fx.Node, trained: set[fx.Node]) -> bool:
    """Say whether two computed values are added, as the residual stream is: what is behind it begins there."""
    terms = [each for each in node.all_input_nodes if each.op != "get_attr" and each in trained]
    return operator_key(node) == "aten.add" and len(terms) > 1


def inner(graph: Graph) -> frozenset[str]:
    """The nodes that are read within their layer alone, and draw nothing at random."""
    places = assign(graph, graph.module.graph)
    alone = (node for node, place in places.items() if all(places.get(user) == place for user in node.users))
    return frozenset(node.name for node in alone if not draws(node))


def draws(node: fx.Node) -> bool:
    """Say whether a call gives other values each time; attention does with dropout alone."""
    if node.target is ATTENTION:
        return bool(argument(node, 4, "dropout_p", 0.0))
    tags = node.target.tags if isinstance(node.target, torch._ops.OpOverload) else ()
    return torch.Tag.nondeterministic_seeded in tags
