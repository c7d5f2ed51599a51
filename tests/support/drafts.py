"""Small drafts by hand, and what a clean-up makes of them, printed before and after."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.frontend.tracing.cleanups import remove_unread
from graphprune.frontend.tracing.draft import Draft
from graphprune.ir.graph import Graph, copy_nodes
from graphprune.ir.types import TensorType


class Drawing:
    """Writes a draft call by call; each value gets the type that the call gives on tensors without values."""

    def __init__(self) -> None:
        self.draft = Draft(fx.Graph(), {})

    def input(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> fx.Node:
        node = self.draft.graph.placeholder(name)
        node.meta["value"] = TensorType(dtype, shape)
        return node

    def tensor(self, name: str, tensor: Tensor) -> fx.Node:
        self.draft.tensors[name] = tensor
        node = self.draft.graph.get_attr(name)
        node.meta["value"] = TensorType(tensor.dtype, tuple(tensor.shape))
        return node

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        node = self.draft.graph.call_function(target, args, kwargs)
        node.meta["value"] = described(target(*fx.node.map_arg(args, stand_in), **kwargs))
        return node

    def output(self, *nodes: fx.Node) -> Draft:
        self.draft.graph.output(nodes)
        return self.draft


def stand_in(node: fx.Node) -> Any:
    return empty(node.meta["value"])


def empty(value: Any) -> Any:
    if isinstance(value, TensorType):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    return tuple(map(empty, value)) if isinstance(value, tuple) else value


def described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return TensorType(value.dtype, tuple(value.shape))
    return tuple(map(described, value)) if isinstance(value, (tuple, list)) else value


def printed(draft: Draft) -> str:
    """The body of a draft and what it returns."""
    inputs = tuple(node.name for node in draft.graph.find_nodes(op="placeholder"))
    outputs = tuple(f"output.{index}" for index in range(len(draft.graph.output_node().args[0])))  # type: ignore[arg-type]
    text = str(Graph(fx.GraphModule(draft.tensors, copy_nodes(draft.graph)), inputs, outputs))
    return text.partition("body\n")[2]


def check(clean_up: Callable[[Draft], int], draft: Draft, count: int, before: str, after: str) -> None:
    """A clean-up makes of the one text the other, once what nothing reads any more is gone, and gives this count."""
    assert printed(draft) == before.strip("\n")
    assert clean_up(draft) == count
    remove_unread(draft)
    draft.graph.lint()
    assert printed(draft) == after.strip("\n")
