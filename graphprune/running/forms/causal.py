"""Causal attention: a graph for whole texts of one length, in which attention knows that it looks back only.

A captured graph computes a mask for any past, length and padding, and attention reads it. A text of `length` tokens
from its beginning has one mask; where that is the triangle, attention without it computes the same, by kernels that
pass over the half that is not seen.
"""

from dataclasses import replace

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from graphprune.ir.graph import Graph, copy_nodes
from graphprune.ir.operators import remove_dead
from graphprune.running.inputs import decoder_inputs

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def causal_form(graph: Graph, length: int) -> Graph:
    """The graph for rows of `length` tokens from their beginning, without padding; the graph itself where none gains.

    Outputs are those of the graph but for rounding, for rows of that length alone. Parameters are shared.
    """
    causal = causal_calls(graph, length)
    if not causal:
        return graph
    fork = graph.fork()
    for node in (node for node in fork.nodes if node.name in causal):
        dropout = argument(node, 4, "dropout_p", 0.0)
        node.args = (*node.args[:3], None, dropout, True)
        node.kwargs = {name: value for name, value in node.kwargs.items() if name in ("scale", "enable_gqa")}
    return swept(fork)


def causal_calls(graph: Graph, length: int) -> set[str]:
    """The names of the calls of attention whose mask is the triangle for rows of this many tokens."""
    calls = [node for node in graph.nodes if node.target is ATTENTION and mask_of(node) is not None]
    chosen = look_back(graph, [mask_of(node) for node in calls], length) if calls else []
    return {call.name for call, causal in zip(calls, chosen, strict=True) if causal}


def swept(fork: Graph) -> Graph:
    """The graph itself, without the nodes that nothing reads, and with its code made again."""
    fork.module.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    fork.module.recompile()
    return fork


def with_outputs(graph: Graph, names: tuple[str, ...], nodes: tuple[str, ...]) -> Graph:
    """The graph that computes these nodes alone, and returns them under these names."""
    return made_of(graph, returning(graph, nodes), names)


def returning(graph: Graph, nodes: tuple[str, ...]) -> fx.Graph:
    """A copy of the nodes of a graph that returns these."""
    copy = copy_nodes(graph.module.graph)
    found = {node.name: node for node in copy.nodes}
    copy.output_node().args = (tuple(found[name] for name in nodes),)
    return copy


def made_of(graph: Graph, nodes: fx.Graph, names: tuple[str, ...]) -> Graph:
    """The graph that runs these nodes, which return outputs of these names, on the tensors of another."""
    remove_dead(nodes)
    module = fx.GraphModule(dict(graph.tensors()), nodes)
    module.train(graph.module.training)
    return replace(graph, module=module, outputs=names)


def argument(node: fx.Node, place: int, name: str, default: Argument = None) -> Argument:
    """An argument of a call by place or name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def mask_of(call: fx.Node) -> fx.Node | None:
    """The mask that a call of attention reads; None where it has none."""
    found = argument(call, 3, "attn_mask")
    return found if isinstance(found, fx.Node) else None


def look_back(graph: Graph, masks: list[fx.Node | None], length: int) -> list[bool]:
    """Say of each mask whether it is the triangle for one row of this many tokens, computed from the graph's inputs."""
    names = tuple(dict.fromkeys(mask.name for mask in masks if mask is not None))
    probe = with_outputs(graph, names, names)
    with torch.no_grad():
        values = probe(*decoder_inputs(graph, torch.zeros(1, length, dtype=torch.long)))
    known = dict(zip(names, map(is_triangle, values), strict=True))
    return [mask is not None and known[mask.name] for mask in masks]


def is_triangle(mask: Tensor) -> bool:
    """Say whether every query sees all up to its own place and nothing behind it: True or 0, else False or very low."""
    size = mask.shape[-1]
    if mask.shape[-2] != size:
        return False
    wanted = torch.ones(size, size, dtype=torch.bool, device=mask.device).tril()
    if mask.dtype == torch.bool:
        return bool((mask == wanted).all())
    seen, low = mask == 0, mask <= torch.finfo(mask.dtype).min / 2
    return bool(torch.where(wanted, seen, low).all())
