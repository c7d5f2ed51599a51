"""Compiled layers: one `torch.compile` for all layers that are the same but for their weights."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from graphprune.ir.graph import get_tensor


@final
class CompiledLayer(nn.Module):
    """A layer whose weights are given to a function that others may share; `full` holds its inputs for backward alone.

    What lies between forward and backward of one compiled function, inductor chooses: it computes again what is cheap.
    """

    def __init__(self, layer: fx.GraphModule, names: Sequence[str], function: Any, full: bool) -> None:
        super().__init__()
        self.layer, self.names, self.function, self.full = layer, tuple(names), function, full

    def forward(self, *inputs: Any) -> Any:
        weights = (get_tensor(self.layer, name) for name in self.names)
        if self.full and torch.is_grad_enabled():
            return checkpoint(self.function, *weights, *inputs, use_reentrant=False, preserve_rng_state=False)
        return self.function(*weights, *inputs)


@final
class Compiler:
    """Makes compiled layers; those that are the same but for their weights share one compilation."""

    def __init__(self, full: bool) -> None:
        self.full = full
        self.made: dict[object, Any] = {}

    def __call__(self, layer: fx.GraphModule) -> CompiledLayer:
        nodes, names = with_weights_given(layer.graph)
        module = fx.GraphModule({}, nodes)
        weights = [get_tensor(layer, name) for name in names]
        key = (module.code, tuple((each.shape, each.dtype, each.requires_grad) for each in weights))
        if key not in self.made:
            self.made[key] = torch.compile(module, dynamic=False)
        return CompiledLayer(layer, names, self.made[key], self.full)


def with_weights_given(nodes: fx.Graph) -> tuple[fx.Graph, list[str]]:
    """The nodes with weights as their first inputs, and the names of these; nodes are called by their place alone."""
    result, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    weights: dict[str, fx.Node] = {}
    for node in nodes.find_nodes(op="get_attr"):
        name = str(node.target)
        if name not in weights:
            weights[name] = result.placeholder(f"w{len(weights)}")
        copies[node] = weights[name]
    for place, node in enumerate(nodes.nodes):
        if node.op == "output":
            result.output(fx.node.map_arg(node.args[0], copies.__getitem__))
        elif node.op != "get_attr":
            copies[node] = result.node_copy(node, copies.__getitem__)
            copies[node].name = f"v{place}"
            if node.op == "placeholder":
                copies[node].target = f"v{place}"
    return result, list(weights)


def missing_compiler(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device, in words; None where it can."""
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except (InvalidCxxCompiler, RuntimeError):
            return "no C++ compiler is found; install g++"
        return None
    from torch.utils._triton import has_triton

    return None if has_triton() else "triton is not installed"
