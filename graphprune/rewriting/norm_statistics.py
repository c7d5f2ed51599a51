"""Exact norm statistics: after a cut, means over an axis still divide by its original width, like the masked model."""

from collections.abc import Sequence
from operator import itemgetter

import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.node import Argument

from graphprune.axes.inference import Call
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import bind, operator_key
from graphprune.ir.types import TensorType
from graphprune.rewriting.widths import Widths

_aten = torch.ops.aten


def keep_statistics(result: Graph, source: Graph, widths: Widths) -> Graph:
    """Return the cut graph with every mean, layer norm and RMS norm over a cut axis scaled to the original width."""
    renamed = {node.name: node for node in result.nodes}
    for node in source.nodes:
        if node.op != "call_function" or node.name not in renamed:
            continue
        share = averaged_share(Call(node, widths.inference), widths)
        if share is None:
            continue
        key = operator_key(node)
        if key not in _EXACT:
            raise PlanError(f"exact statistics are not available for {key} at {node.name}; use statistics survivors")
        _EXACT[key](result.module.graph, renamed[node.name], share)
    result.module.recompile()
    return result


def averages_less(source: Graph, widths: Widths) -> bool:
    """Say whether the cut graph averages over fewer channels anywhere than the source does."""
    calls = (Call(node, widths.inference) for node in source.nodes if node.op == "call_function")
    return any(averaged_share(call, widths) is not None for call in calls)


def averaged_share(call: Call, widths: Widths) -> float | None:
    """Kept over original width of what this call averages over; None where that did not change."""
    if call.name == "aten.mean":
        axes = call.axes(call["self"])
        dims = call["dim"] if isinstance(call["dim"], (list, tuple)) else [call["dim"]]
        over = [axes[d] for d in dims] if call["dim"] else list(axes)
    elif call.name in ("aten.layer_norm", "aten.rms_norm"):
        over = list(call.axes(call["input"])[-len(call["normalized_shape"]) :])
    elif call.name == "aten.group_norm":
        over = [*call.noted()[1:], *call.axes(call["input"])[2:]] if call.node in call.state.notes else []
    else:
        return None
    share = 1.0
    for axis in over:
        old, new = widths.algebra.size(axis), widths.size(axis)
        if old != new:
            share *= float(new) / float(old)
    return None if share == 1.0 else share


def after(
    graph: fx.Graph,
    node: fx.Node,
    target: OpOverload,
    args: tuple[Argument, ...],
    like: fx.Node,
    reduced: Sequence[int] = (),
) -> fx.Node:
    """Insert a call after `node` whose type is that of `like`, with these dimensions, if any, reduced to one."""
    with graph.inserting_after(node):
        new = graph.call_function(target, args)
    value: TensorType = like.meta["value"]
    shape = tuple(1 if d in reduced else size for d, size in enumerate(value.shape))
    new.meta["value"] = TensorType(value.dtype, shape)
    new.meta["scope"] = like.meta.get("scope", "")
    return new


def scale_mean(graph: fx.Graph, node: fx.Node, share: float) -> None:
    scaled = after(graph, node, _aten.mul.Tensor, (node, share), node)
    node.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)


def exact_layer_norm(graph: fx.Graph, node: fx.Node, share: float) -> None:
    check_norm(node)
    x, weight, bias, eps = itemgetter("input", "weight", "bias", "eps")(bind(node))
    standardise(Chain(graph, node, x), share, weight, bias, eps)


def exact_group_norm(graph: fx.Graph, node: fx.Node, share: float) -> None:
    """A group norm of one group: a layer norm over the channels and all positions, with a weight for each channel."""
    x, groups, weight, bias, eps = itemgetter("input", "num_groups", "weight", "bias", "eps")(bind(node))
    if groups != 1:
        raise PlanError(f"no exact statistics for a norm of {groups} groups, at {node.name}; use statistics survivors")
    rank = len(x.meta["value"].shape)
    weight, bias = (w if w is None else along_channels(graph, node, w, rank) for w in (weight, bias))
    standardise(Chain(graph, node, x, tuple(range(1, rank))), share, weight, bias, eps)


def along_channels(graph: fx.Graph, node: fx.Node, weight: fx.Node, rank: int) -> fx.Node:
    """A weight for each channel as [channels, 1, ...], one dimension less than `rank`."""
    for dim in range(1, rank - 1):
        value: TensorType = weight.meta["value"]
        with graph.inserting_before(node):
            weight = graph.call_function(_aten.unsqueeze.default, (weight, dim))
        weight.meta |= {"value": TensorType(value.dtype, (*value.shape, 1)), "scope": node.meta.get("scope", "")}
    return weight


def standardise(chain: "Chain", share: float, weight: fx.Node | None, bias: fx.Node | None, eps: float) -> None:
    """Mean and variance of the masked input: removed entries are zeros, each `mean` away from the mean.

    With r the kept share and m' the survivors' mean: m = r m', var = r mean'((x - m)^2) + (1 - r) m^2. The share is the
    scaled mean of ones, so that it stands in means alone: a second cut scales these again, and is exact too.
    """
    x = chain.like
    mean = chain(_aten.mul.Tensor, chain.mean(x), share, reduced=True)
    centred = chain(_aten.sub.Tensor, x, mean)
    spread = chain.mean(chain(_aten.mul.Tensor, centred, centred))
    kept = chain(_aten.mul.Tensor, chain.mean(chain(_aten.ones_like.default, x)), share, reduced=True)
    square = chain(_aten.mul.Tensor, mean, mean, reduced=True)
    missing = chain(_aten.sub.Tensor, square, chain(_aten.mul.Tensor, square, kept, reduced=True), reduced=True)
    variance = chain(_aten.add.Tensor, chain(_aten.mul.Tensor, spread, share, reduced=True), missing, reduced=True)
    chain.finish(centred, variance, eps, weight, bias)


def exact_rms_norm(graph: fx.Graph, node: fx.Node, share: float) -> None:
    check_norm(node)
    x, weight, eps = itemgetter("input", "weight", "eps")(bind(node))
    chain = Chain(graph, node, x)
    square = chain.mean(chain(_aten.mul.Tensor, x, x))
    machine = torch.finfo(x.meta["value"].dtype).eps
    chain.finish(x, chain(_aten.mul.Tensor, square, share, reduced=True), machine if eps is None else eps, weight, None)


def check_norm(node: fx.Node) -> None:
    """Raise PlanError where a norm is over several dimensions."""
    if len(bind(node)["normalized_shape"]) != 1:
        raise PlanError(
            f"no exact statistics for a norm over several dimensions, at {node.name}; use statistics survivors"
        )


class Chain:
    """Emits calls one after the other in place of a norm."""

    def __init__(self, graph: fx.Graph, node: fx.Node, like: fx.Node, dims: tuple[int, ...] | None = None) -> None:
        self.graph, self.node, self.like, self.last = graph, node, like, node
        self.dims = (len(like.meta["value"].shape) - 1,) if dims is None else dims

    def __call__(self, target: OpOverload, *args: Argument, reduced: bool = False) -> fx.Node:
        self.last = after(self.graph, self.last, target, args, self.like, self.dims if reduced else ())
        return self.last

    def mean(self, x: fx.Node) -> fx.Node:
        """The mean over the dimensions of the norm, which stay as ones."""
        dims = [-1] if self.dims == (len(x.meta["value"].shape) - 1,) else list(self.dims)
        return self(_aten.mean.dim, x, dims, True, reduced=True)

    def finish(
        self, centred: fx.Node, variance: fx.Node, eps: float, weight: fx.Node | None, bias: fx.Node | None
    ) -> None:
        """Divide by the root of the variance, scale, shift, and take the norm's place."""
        root = self(_aten.rsqrt.default, self(_aten.add.Tensor, variance, eps, reduced=True), reduced=True)
        result = self(_aten.mul.Tensor, centred, root)
        if weight is not None:
            result = self(_aten.mul.Tensor, result, weight)
        if bias is not None:
            result = self(_aten.add.Tensor, result, bias)
        self.node.replace_all_uses_with(result)
        self.graph.erase_node(self.node)


_EXACT = {
    "aten.mean": scale_mean,
    "aten.layer_norm": exact_layer_norm,
    "aten.rms_norm": exact_rms_norm,
    "aten.group_norm": exact_group_norm,
}
