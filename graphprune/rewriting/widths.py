"""Sizes under new axis widths: the number each axis becomes, and the nodes that compute a symbolic one."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from torch import fx
from torch.fx.node import Argument

from graphprune.axes.algebra import Algebra, Axis, multiply, total
from graphprune.axes.inference import Inference
from graphprune.ir.sizes import emit_size
from graphprune.ir.types import Size

Mask = NDArray[numpy.bool_]


@dataclass(frozen=True, eq=False)
class Widths:
    """The kept units of some atomic axes; every other axis keeps its size."""

    inference: Inference
    kept: Mapping[Axis, Mask]

    @property
    def algebra(self) -> Algebra:
        return self.inference.algebra

    def size(self, axis: Axis) -> Size:
        """The new size of an axis."""
        root = self.algebra.find(axis)
        form = self.algebra.form(root)
        if form is None:
            return int(self.kept[root].sum()) if root in self.kept else self.algebra.size(root)
        if form[0] == "concat":
            return total(tuple(self.size(part) for part in form[1]))
        result: Size = 1
        for factor in form[1]:
            result = multiply(result, self.size(factor))
        return result

    def mask(self, axis: Axis) -> Mask:
        """Which indices along an axis of static size are kept."""
        root = self.algebra.find(axis)
        form = self.algebra.form(root)
        if form is None:
            size = self.algebra.size(root)
            assert isinstance(size, int)
            return self.kept.get(root, numpy.ones(size, dtype=bool))
        masks = [self.mask(part) for part in form[1]]
        if form[0] == "concat":
            return numpy.concatenate(masks)
        result = numpy.ones(1, dtype=bool)
        for mask in masks:
            result = numpy.kron(result, mask).astype(bool)
        return result


@dataclass(frozen=True, eq=False)
class NodeResizer:
    """What a rule's `resize` asks, for one node of the new graph; symbolic sizes become nodes before it."""

    widths: Widths
    graph: fx.Graph
    before: fx.Node

    def size(self, axis: Axis) -> int:
        size = self.widths.size(axis)
        assert isinstance(size, int)
        return size

    def place(self, axis: Axis, index: int) -> int:
        kept = self.widths.mask(axis)
        return int(kept[:index].sum()) if kept[index] else -1

    def was(self, axis: Axis) -> Size:
        return self.widths.algebra.size(axis)

    def argument(self, axis: Axis, old: Argument) -> Argument:
        """The argument that stands for this axis: unchanged, a new integer, or a node that computes the new size."""
        size = self.widths.size(axis)
        if size == self.was(axis):
            return old
        return size if isinstance(size, int) else emit_size(self.graph, size, self.before)
