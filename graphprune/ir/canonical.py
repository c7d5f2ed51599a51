"""Canonical form: the same calls give the same graph, names included, however the graph was made."""

from collections.abc import Iterable, Mapping

from torch import Tensor, fx

CONSTANTS = "constants."  # tensors that the model makes from nothing, as opposed to its parameters and buffers


def canonical(graph: fx.Graph, tensors: Mapping[str, Tensor], order: Iterable[str]) -> fx.GraphModule:
    """The graph as a module, its calls in the order given, without attributes that nothing reads.

    Inputs come first, then parameters and buffers by their place in `order`, then constants, which are numbered as they
    are read. Calls are named anew.
    """
    places = {name: place for place, name in enumerate(order)}
    reads = dict.fromkeys(
        operand for node in graph.nodes for operand in node.all_input_nodes if operand.op == "get_attr"
    )
    targets = dict.fromkeys(str(node.target) for node in reads)
    constants = [name for name in targets if name not in places]
    renamed = {name: f"{CONSTANTS}{index}" for index, name in enumerate(constants)}
    ordered = [*sorted((name for name in targets if name in places), key=places.__getitem__), *constants]

    result = fx.Graph()
    mapping = {node: result.placeholder(str(node.target)) for node in graph.find_nodes(op="placeholder")}
    attributes = {name: result.get_attr(renamed.get(name, name)) for name in ordered}
    mapping |= {node: attributes[str(node.target)] for node in reads}
    for node in graph.nodes:
        if node.op in ("call_function", "output"):
            args, kwargs = (fx.node.map_arg(a, mapping.__getitem__) for a in (node.args, node.kwargs))
            mapping[node] = result.create_node(node.op, node.target, args, kwargs)
    for node, new in mapping.items():
        new.meta = dict(node.meta)
    module = fx.GraphModule({renamed.get(name, name): tensors[name] for name in ordered}, result)
    module.eval()
    return module
