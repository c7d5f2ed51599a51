"""What onnxruntime has one operator for, found in a graph by its calls: norms, rotations, attention with a cache."""

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphprune.backends.attempts import attempt
from graphprune.ir.graph import Graph, get_tensor
from graphprune.ir.operators import opname
from graphprune.ir.types import TensorType

_UNARY = frozenset({"cos", "sin", "_to_copy", "alias", "clone"})


@dataclass(frozen=True, eq=False)
class SkipNorm:
    """`total` = left + right goes on by itself and, RMS-normalised over the last axis and scaled, as `result`."""

    total: fx.Node
    result: fx.Node
    left: fx.Node
    right: fx.Node
    scale: fx.Node
    epsilon: float


@dataclass(frozen=True, eq=False)
class Rotation:
    """Heads [batch, heads, sequence, size] turned half against half; cos and sin are [batch, sequence, size]."""

    result: fx.Node
    heads: fx.Node
    cos: fx.Node
    sin: fx.Node


@dataclass(frozen=True, eq=False)
class CachedAttention:
    """Attention of new queries [batch, heads, sequence, size] over a cache that the new keys and values join.

    `present` are the calls that join them, `result` the call after which heads lie side by side, [batch, sequence,
    heads * size]; the attention call itself where there is none.
    """

    call: fx.Node
    result: fx.Node
    query: fx.Node
    new: tuple[fx.Node, fx.Node]
    past: tuple[fx.Node, fx.Node]
    present: tuple[fx.Node, fx.Node]
    mask: fx.Node
    heads: int
    key_heads: int
    size: int
    scale: float


def name_of(node: object) -> str:
    """The ATen name of a call: `mul`; empty for anything else."""
    return opname(node) if isinstance(node, fx.Node) else ""


def shape(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("value")
    return tuple(value.shape) if isinstance(value, TensorType) else ()


def operands(node: object, *names: str) -> tuple[Any, ...]:
    """What a call of one of these names is given; nothing for anything else."""
    return node.args if isinstance(node, fx.Node) and name_of(node) in names else ()


def users(node: fx.Node, name: str) -> Iterator[fx.Node]:
    return (user for user in node.users if name_of(user) == name)


def other_operand(node: fx.Node, one: fx.Node) -> fx.Node | None:
    """The operand of a product or sum beside this one."""
    left, right = node.args[:2]
    other = right if left is one else left
    return other if isinstance(other, fx.Node) else None


def find_skip_norms(graph: Graph) -> Iterator[SkipNorm]:
    """Every sum of two streams of one shape that an RMS norm reads."""
    for total in graph.nodes:
        if name_of(total) == "add" and not total.kwargs and len(total.args) == 2:
            left, right = total.args
            same = isinstance(left, fx.Node) and isinstance(right, fx.Node) and shape(left) == shape(right)
            norm = read_norm(total) if same else None
            if norm is not None:
                result, scale, epsilon = norm
                yield SkipNorm(total, result, left, right, scale, epsilon)  # type: ignore[arg-type]


def read_norm(x: fx.Node) -> tuple[fx.Node, fx.Node, float] | None:
    """The scaled norm that reads x: its last call, its scale and epsilon."""
    square = next((node for node in users(x, "pow") if node.args[1] == 2), None)
    mean = next(users(square, "mean"), None) if square is not None else None
    if mean is None or tuple(mean.args[1:]) != ([-1], True):
        return None
    shifted = next(users(mean, "add"), None)
    root = next(users(shifted, "rsqrt"), None) if shifted is not None else None
    normal = next((node for node in users(root, "mul") if x in node.args), None) if root is not None else None
    scaled = next(users(normal, "mul"), None) if normal is not None else None
    scale = other_operand(scaled, normal) if scaled is not None and normal is not None else None
    if scaled is None or scale is None or shape(scale) != shape(x)[-1:] or shifted is None:
        return None
    epsilon = shifted.args[1]
    return (scaled, scale, float(epsilon)) if isinstance(epsilon, (int, float)) else None


def read_rotation(result: fx.Node) -> Rotation | None:
    """Read x cos + (-x2, x1) sin, where x1 and x2 are the halves of x, as Llama and most since have it."""
    if name_of(result) != "add" or [name_of(arg) for arg in result.args] != ["mul", "mul"]:
        return None
    for plain, turned in (result.args, result.args[::-1]):
        for heads, cos in (plain.args, plain.args[::-1]):  # type: ignore[union-attr]
            for swapped, sin in (turned.args, turned.args[::-1]):  # type: ignore[union-attr]
                if isinstance(heads, fx.Node) and swaps_halves(swapped, heads):
                    angles = read_angles(cos, heads), read_angles(sin, heads)
                    if angles[0] is not None and angles[1] is not None:
                        return Rotation(result, heads, *angles)  # type: ignore[arg-type]
    return None


def swaps_halves(node: object, heads: fx.Node) -> bool:
    """Say whether the node is (-x2, x1) of these heads."""
    size = shape(heads)[-1]
    parts, *axis = operands(node, "cat") or ((),)
    if axis not in ([-1], [3]) or len(parts) != 2:
        return False
    negative, first = parts
    second = next(iter(operands(negative, "neg")), None)
    if operands(first, "slice") != (heads, 3, 0, size // 2) or operands(second, "slice")[:3] != (heads, 3, size // 2):
        return False
    return isinstance(second, fx.Node) and shape(second)[-1] == size // 2 and not (first.kwargs or second.kwargs)


def read_angles(node: object, heads: fx.Node) -> fx.Node | None:
    """The [batch, sequence, size] table of cos or sin behind a view with one head, its halves equal."""
    table, *axis = operands(node, "unsqueeze") or (None,)
    if axis != [1] or not isinstance(table, fx.Node):
        return None
    batch, _, sequence, size = shape(heads)
    return table if shape(table) == (batch, sequence, size) and has_equal_halves(table) else None


def has_equal_halves(node: object) -> bool:
    """Say whether the last axis is the same twice: from a join of one tensor with itself, by calls on each element."""
    while single := operands(node, *_UNARY) or scaled_by_number(node):
        node = single[0]
    parts, *axis = operands(node, "cat") or ((),)
    return axis == [-1] and len(parts) == 2 and parts[0] is parts[1]


def scaled_by_number(node: object) -> tuple[Any, ...]:
    """The operands of a product with a plain number; nothing for anything else."""
    factors = operands(node, "mul")
    return () if factors and isinstance(factors[1], fx.Node) else factors


def find_attentions(graph: Graph) -> Iterator[CachedAttention]:
    """Every attention over a cache whose mask shows no query what comes after it."""
    masks: dict[fx.Node, bool] = {}
    for node in graph.nodes:
        if name_of(node) == "scaled_dot_product_attention":
            found = read_attention(graph, node)
            if found is not None and masks.setdefault(found.mask, is_causal(graph, found.mask)):
                yield found


def read_attention(graph: Graph, node: fx.Node) -> CachedAttention | None:
    query, key, value, mask = (*node.args, None)[:4]
    if len(node.args) > 4 or set(node.kwargs) - {"scale", "enable_gqa"} or not isinstance(mask, fx.Node):
        return None
    parts = [read_join(graph, strip_repeats(part)) for part in (key, value)]
    if parts[0] is None or parts[1] is None or not isinstance(query, fx.Node) or len(shape(query)) != 4:
        return None
    _, heads, _, size = shape(query)
    key_heads = shape(parts[0][0])[1]
    equal = shape(parts[0][0])[1::2] == shape(parts[1][0])[1::2] == (key_heads, size)
    if not equal or heads % key_heads or len(shape(mask)) != 4 or shape(mask)[1] not in (1, heads):
        return None
    scale = node.kwargs.get("scale")
    return CachedAttention(
        node,
        side_by_side(node),
        query,
        (parts[0][1], parts[1][1]),
        (parts[0][0], parts[1][0]),
        (parts[0][2], parts[1][2]),
        mask,
        heads,
        key_heads,
        size,
        float(scale) if isinstance(scale, (int, float)) else size**-0.5,
    )


def strip_repeats(node: object) -> object:
    """The keys before they are repeated for the queries of a group."""
    wide = operands(node, "reshape", "view")
    narrow = operands(wide[0], "expand") if wide else ()
    keys, *axis = (operands(narrow[0], "unsqueeze") if narrow else ()) or (None,)
    return keys if axis == [2] else node


def read_join(graph: Graph, node: object) -> tuple[fx.Node, fx.Node, fx.Node] | None:
    """The cache input, what is put behind it, and the call that does it."""
    parts, *axis = operands(node, "cat") or ((),)
    if not isinstance(node, fx.Node) or axis not in ([-2], [2]) or len(parts) != 2:
        return None
    past, new = parts
    known = past.op == "placeholder" and past in graph.placeholders.values()
    return (past, new, node) if known and node in graph.results.values() else None


def side_by_side(node: fx.Node) -> fx.Node:
    """Follow the attention's only readers to where its heads lie side by side."""
    batch, heads, sequence, size = shape(node)
    last, swapped = node, False
    while len(last.users) == 1:
        last = next(iter(last.users))
        name = name_of(last)
        if name == "transpose" and not swapped and last.args[1:] in ((1, 2), (2, 1)):
            swapped = True
        elif swapped and shape(last) == (batch, sequence, heads * size) and name in ("reshape", "view", "_unsafe_view"):
            return last
        elif name not in ("reshape", "view", "clone", "contiguous") or shape(last) != shape(last.args[0]):  # type: ignore[arg-type]
            return node
    return node


def is_causal(graph: Graph, mask: fx.Node, past: int = 2, sequence: int = 3) -> bool:
    """Compute the mask for a small batch and say whether every query is kept from what comes after it."""
    feeds: dict[fx.Node, torch.Tensor] = {}
    for name, node in graph.placeholders.items():
        sizes = {"batch": 1, "sequence": sequence, "past": past, "past + sequence": past + sequence}
        concrete = [size if isinstance(size, int) else sizes.get(str(size), 1) for size in shape(node)]
        positions = name == "position_ids"
        feeds[node] = (
            torch.arange(past, past + sequence).expand(concrete)
            if positions
            else torch.ones(concrete, dtype=node.meta["value"].dtype)
        )
    seen = attempt(lambda: compute(graph, mask, feeds))
    if not isinstance(seen, torch.Tensor):
        return False  # what can not be computed alone is not known to be causal
    visible = seen if seen.dtype == torch.bool else seen > torch.finfo(seen.dtype).min / 4
    future = torch.ones(sequence, past + sequence, dtype=torch.bool).triu(past + 1)
    return seen.shape[-2:] == future.shape and not bool((visible & future).any())


def compute(graph: Graph, node: fx.Node, feeds: Mapping[fx.Node, torch.Tensor]) -> object:
    """The value of one node, computed from its inputs alone."""
    known: dict[fx.Node, Any] = dict(feeds)
    needed, stack = set[fx.Node](), [node]
    while stack:
        one = stack.pop()
        if one not in needed:
            needed.add(one)
            stack.extend(one.all_input_nodes)
    for one in graph.nodes:
        if one not in needed or one in known:
            continue
        if one.op == "get_attr":
            known[one] = get_tensor(graph.module, str(one.target))
            continue
        args, kwargs = fx.node.map_arg((one.args, one.kwargs), known.__getitem__)
        known[one] = operator.call(one.target, *args, **kwargs)  # type: ignore[arg-type]
    return known[node]
