"""What is trained: every parameter of the graph, or LoRA adapters on its linear layers, merged into it at the end."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument

from graphprune.errors import UsageError
from graphprune.ir.graph import Graph, copy_nodes, deep_copy, get_tensor
from graphprune.pruning.sparsity.held import held, with_zeros
from graphprune.training.options import LoraOptions
from graphprune.weights.patterns import kept_entries

_LINEAR, _ADDMM = torch.ops.aten.linear.default, torch.ops.aten.addmm.default


@dataclass(frozen=True, eq=False)
class Trainee:
    """`graph` runs with the weights as they are now, `trainable` are the tensors that training changes, by name.

    `merged()` gives the graph's own parameters as training left them, by their names, and `companions()` what belongs
    to them then. `forget`, where what is trained computes another thing than the graph before the first step, takes it
    back to that.
    """

    graph: Graph
    trainable: Mapping[str, nn.Parameter]
    merged: Callable[[], dict[str, Tensor]]
    companions: Callable[[], Mapping[str, Mapping[str, Tensor]]] = dict
    forget: Callable[[], None] | None = None


def whole(graph: Graph) -> Trainee:
    """Train every parameter of a copy of the graph, but for the zeros of patterns."""
    copy = deep_copy(graph)
    parameters = copy.parameters()
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return Trainee(held(copy), parameters, lambda: with_zeros({n: p.detach() for n, p in parameters.items()}, graph))


def adapted(graph: Graph, options: LoraOptions, seed: int) -> Trainee:
    """Train LoRA adapters of peft on linear layers of a copy of the graph; all else is frozen.

    Each call of a linear layer becomes a call of a module that peft can wrap. The merged graph has the parameters that
    the graph had. Source: Hu et al., arXiv 2106.09685. Raises UsageError without peft or for targets that do not occur.
    """
    try:
        import peft
    except ImportError as error:
        raise UsageError("peft is not installed; pip install graphprune[lora]") from error
    copy = deep_copy(graph)
    calls = chosen_calls(copy, options.targets)
    module = with_layers(copy, calls)
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type] # peft says int and takes any number
        lora_dropout=options.dropout,
        target_modules=sorted(calls),
        fan_in_fan_out=any(is_transposed(nodes[0]) for nodes in calls.values()),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, module)
    for layer, kept in kept_layers(graph, calls).items():
        hold_zeros(module.get_submodule(layer), kept)
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return Trainee(replace(copy, module=module), trainable, lambda: with_zeros(merge(module, calls), graph))


def chosen_calls(graph: Graph, targets: tuple[str, ...], head: bool = False) -> dict[str, list[fx.Node]]:
    """The linear layers to adapt: module name -> the nodes that call it.

    A layer's weight is a parameter that only these nodes read; the head, whose output is the logits, is left out
    unless it is named, or `head` is set.
    """
    readers: dict[str, list[fx.Node]] = {}
    tensors = graph.tensors()
    first = {id(tensor): name for name, tensor in reversed(tensors.items())}
    for node in graph.nodes:
        for operand in node.all_input_nodes:
            if operand.op == "get_attr":
                readers.setdefault(first[id(tensors[str(operand.target)])], []).append(node)
    heads = {name for name, node in graph.results.items() if name == "logits" for name in upstream(node)}
    found: dict[str, list[fx.Node]] = {}
    for name, nodes in readers.items():
        layer, _, leaf = name.rpartition(".")
        if leaf != "weight" or not all(is_linear(node, name) for node in nodes):
            continue
        if any(layer == t or layer.endswith(f".{t}") for t in targets) or (not targets and (head or name not in heads)):
            found[layer] = nodes
    missing = [t for t in targets if not any(layer == t or layer.endswith(f".{t}") for layer in found)]
    if missing or not found:
        known = sorted({name.rpartition(".")[0].rpartition(".")[2] for name in readers if name.endswith(".weight")})
        raise UsageError(
            f"LoRA finds no linear layer {', '.join(missing) or 'at all'}; the layers are {', '.join(known)}"
        )
    return found


def upstream(node: fx.Node) -> list[str]:
    """The parameters of the layer that makes a value, past operations of one tensor such as a cast."""
    while not any(operand.op == "get_attr" for operand in node.all_input_nodes) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return [str(operand.target) for operand in node.all_input_nodes if operand.op == "get_attr"]


def is_linear(node: fx.Node, weight: str) -> bool:
    """Say whether a node is a linear layer with this parameter as its weight and a parameter or nothing as its bias."""
    if node.target not in (_LINEAR, _ADDMM):
        return False
    matrix, bias = weight_and_bias(node)
    plain = node.target is _LINEAR or not node.kwargs
    own = isinstance(matrix, fx.Node) and matrix.op == "get_attr" and str(matrix.target) == weight
    biased = bias is None or (isinstance(bias, fx.Node) and bias.op == "get_attr")
    return plain and own and biased


def is_transposed(node: fx.Node) -> bool:
    """Say whether the weight is [in, out], as in GPT-2."""
    return node.target is _ADDMM


def weight_and_bias(node: fx.Node) -> tuple[Argument, Argument]:
    if is_transposed(node):
        return node.args[2], node.args[0]
    return node.args[1], node.args[2] if len(node.args) > 2 else None


Make = Callable[[nn.Module, fx.Node], nn.Module]


def with_layers(
    graph: Graph, calls: Mapping[str, list[fx.Node]], makers: Mapping[str, Make] | None = None
) -> fx.GraphModule:
    """The graph's module with these calls as calls of layers, which hold the same parameters under the same names.

    `makers` make the layers from the module and a call, in place of `make_layer`.
    """
    nodes = copy_nodes(graph.module.graph)
    copies = {node.name: node for node in nodes.nodes}
    root = fx.GraphModule(dict(graph.tensors()), nodes)
    for layer, callers in calls.items():
        make = make_layer if makers is None else makers[layer]
        root.set_submodule(layer, make(root, callers[0]))
        for caller in callers:
            node = copies[caller.name]
            value = node.args[1] if is_transposed(node) else node.args[0]
            with root.graph.inserting_before(node):
                call = root.graph.call_module(layer, (value,))
            call.meta = dict(node.meta)
            node.replace_all_uses_with(call)
            root.graph.erase_node(node)
    root.graph.eliminate_dead_code()
    root.recompile()
    return root


def make_layer(root: nn.Module, node: fx.Node) -> nn.Module:
    """A layer of the kind that peft knows around the parameters that a node reads."""
    from transformers.pytorch_utils import Conv1D

    matrix, bias = weight_and_bias(node)
    assert isinstance(matrix, fx.Node)
    weight = get_tensor(root, str(matrix.target))
    with torch.device("meta"):
        if is_transposed(node):
            layer: nn.Module = Conv1D(weight.shape[1], weight.shape[0])
        else:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = weight
    if isinstance(bias, fx.Node):
        layer.bias = get_tensor(root, str(bias.target))
    return layer


def kept_layers(graph: Graph, layers: Iterable[str]) -> dict[str, Tensor]:
    """What is kept of the weights of those layers that have a pattern, on the device of the weight."""
    kept, tensors = kept_entries(graph.companions), graph.tensors()
    names = {layer: f"{layer}.weight" for layer in layers}
    return {layer: kept[name].to(tensors[name].device) for layer, name in names.items() if name in kept}


def hold_zeros(layer: Any, kept: Tensor) -> None:
    """Let an adapter of peft change only what is kept of the layer's weight, so that what is trained is what merges."""
    layer.forward = partial(adapted_within, layer, kept)


def adapted_within(layer: Any, kept: Tensor, x: Tensor) -> Tensor:
    """The layer's output with the adapter's change of its weight, where the weight is kept."""
    change, given = layer.get_delta_weight("default") * kept, layer.lora_dropout["default"](x)
    turned = change.T if layer.fan_in_fan_out else change
    return torch.as_tensor(layer.base_layer(x) + nn.functional.linear(given, turned))


def merge(module: nn.Module, calls: Mapping[str, list[fx.Node]]) -> dict[str, Tensor]:
    """Add each adapter to its weight: the merged weights by the names that the graph has for them."""
    merged: dict[str, Tensor] = {}
    for layer in calls:
        part: Any = module.get_submodule(layer)
        merged[f"{layer}.weight"] = (part.base_layer.weight + part.get_delta_weight("default")).detach()
    return merged
