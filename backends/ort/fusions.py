"""The `ort` flavour: com.microsoft operators in place of the calls that they compute in one."""

from collections.abc import Mapping, Sequence
from typing import final

import onnx_ir as ir
import torch
from torch import fx

from graphprune.backends.onnx.lowerings import constant
from graphprune.backends.onnx.types import DOMAIN
from graphprune.backends.onnx.values import Fusion, Lowered, Operators, Recorder, Values, value_of
from graphprune.backends.ort.patterns import (
    CachedAttention,
    Rotation,
    SkipNorm,
    find_attentions,
    find_skip_norms,
    name_of,
    read_rotation,
    shape,
)
from graphprune.ir.graph import Graph

_HEAD_SIZES = 8  # GroupQueryAttention takes multiples of this


def find_fusions(graph: Graph) -> Mapping[fx.Node, Fusion]:
    """By the node that they stand for, the fused calls of a graph; what is not among them is written as it is."""
    found: dict[fx.Node, Fusion] = {}
    rotations = dict[fx.Node, Rotation]()
    attentions = [each for each in find_attentions(graph) if each.size % _HEAD_SIZES == 0]
    for each in attentions:
        for heads in (each.query, each.new[0]):
            rotation = read_rotation(heads)
            if rotation is not None:
                rotations[heads] = rotation
        found[each.result] = FusedAttention(graph, each, rotations)
    for norm in find_skip_norms(graph):
        if norm.total not in found:
            fused = FusedNorm(norm)
            found[norm.total], found[norm.result] = fused, fused.normal
    return found


def record(
    recorder: Recorder, kind: str, inputs: Sequence[ir.Value | None], outputs: int = 1, **attributes: float
) -> Sequence[ir.Value]:
    """Record a node of onnxruntime's own domain; returns its values."""
    made = ir.node(kind, inputs, attributes, domain=DOMAIN, num_outputs=outputs)
    recorder.nodes.append(made)
    return made.outputs


@final
class FusedNorm:
    """SkipSimplifiedLayerNormalization: the sum and its norm in one call."""

    def __init__(self, pattern: SkipNorm) -> None:
        self.pattern = pattern
        self.result: ir.Value | None = None

    def __call__(self, op: Operators, recorder: Recorder, values: Values) -> Lowered:
        one = self.pattern
        if values.get(one.scale) is None:  # a scale that is computed later than the sum
            return op.Add(values[one.left], values[one.right])
        inputs = [value_of(values, each) for each in (one.left, one.right, one.scale)]
        self.result, _, _, total = record(
            recorder, "SkipSimplifiedLayerNormalization", inputs, outputs=4, epsilon=one.epsilon
        )
        return total

    def normal(self, op: Operators, recorder: Recorder, values: Values) -> Lowered:
        """The norm, where it was written with the sum; None otherwise."""
        return self.result


@final
class FusedAttention:
    """RotaryEmbedding on queries and keys, and GroupQueryAttention with the cache.

    The mask becomes an additive bias, so that prompts padded on the left and sliding windows are as in the graph.
    """

    def __init__(self, graph: Graph, pattern: CachedAttention, rotations: Mapping[fx.Node, Rotation]) -> None:
        self.graph = graph
        self.pattern = pattern
        self.rotations = rotations

    def __call__(self, op: Operators, recorder: Recorder, values: Values) -> Lowered:
        one = self.pattern
        query, key = (self.rotated(op, recorder, values, heads) for heads in (one.query, one.new[0]))
        value = flat(op, values, one.new[1])
        length, total = self.lengths(op, values)
        past = [value_of(values, each) for each in one.past]
        inputs = [query, key, value, *past, length, total, None, None, None, self.bias(op, values)]
        made, *present = record(
            recorder,
            "GroupQueryAttention",
            inputs,
            outputs=3,
            num_heads=one.heads,
            kv_num_heads=one.key_heads,
            scale=one.scale,
        )
        values.update(zip(one.present, present, strict=True))
        if one.result is not one.call:
            return made
        split = op.Reshape(made, constant(op, [0, 0, one.heads, one.size]))
        return op.Transpose(split, perm=[0, 2, 1, 3])

    def rotated(self, op: Operators, recorder: Recorder, values: Values, heads: fx.Node) -> ir.Value:
        """Queries or keys side by side, [batch, sequence, heads * size], turned by their positions."""
        rotation = self.rotations.get(heads)
        if rotation is None:
            return flat(op, values, heads)
        half = self.pattern.size // 2
        tables = [self.table(op, value_of(values, each), half) for each in (rotation.cos, rotation.sin)]
        rows = op.Shape(values[rotation.cos], start=0, end=2)
        numbers = op.Range(constant(op, 0), op.ReduceProd(rows, keepdims=0), constant(op, 1))
        places = op.Reshape(numbers, rows)  # the tables have a row for each token
        inputs = [flat(op, values, rotation.heads), places, *tables]
        return record(recorder, "RotaryEmbedding", inputs, interleaved=0)[0]

    def table(self, op: Operators, angles: ir.Value, half: int) -> ir.Value:
        """The first half of cos or sin, one row a token."""
        first = op.Slice(angles, constant(op, [0]), constant(op, [half]), constant(op, [2]))
        return op.Reshape(first, constant(op, [-1, half]))

    def lengths(self, op: Operators, values: Values) -> tuple[ir.Value, ir.Value]:
        """The last place of every row, [batch], and the number of places, both with the cache, as int32."""
        shape_ = op.Shape(values[self.graph.placeholders["attention_mask"]])
        batch, total = (op.Slice(shape_, constant(op, [i]), constant(op, [i + 1])) for i in (0, 1))
        total = op.Cast(total, to=ir.DataType.INT32)
        last = op.Sub(total, constant(op, [1], ir.DataType.INT32))
        return op.Expand(last, batch), op.Squeeze(total)

    def bias(self, op: Operators, values: Values) -> ir.Value:
        mask, dtype = value_of(values, self.pattern.mask), value_of(values, self.pattern.past[0]).dtype
        assert dtype is not None
        if mask.dtype != ir.DataType.BOOL:
            return mask
        element = torch.float16 if dtype == ir.DataType.FLOAT16 else torch.float32
        return op.Where(mask, constant(op, 0.0, dtype), constant(op, torch.finfo(element).min / 2, dtype))


def flat(op: Operators, values: Values, heads: fx.Node) -> ir.Value:
    """[batch, heads, sequence, size] as [batch, sequence, heads * size]; where it comes from there, that."""
    _, count, _, size = shape(heads)
    wide = constant(op, [0, 0, count * size])
    if name_of(heads) == "transpose" and heads.args[1:] in ((1, 2), (2, 1)):
        split = heads.args[0]
        assert isinstance(split, fx.Node)
        before = split.args[0] if name_of(split) in ("reshape", "view") else None
        if isinstance(before, fx.Node) and shape(before) == (*shape(split)[:2], count * size):
            return value_of(values, before)
        return op.Reshape(values[split], wide)
    return op.Reshape(op.Transpose(values[heads], perm=[0, 2, 1, 3]), wide)
