"""The algebra of axes: union-find over axes that can be refined into products and concatenations.

Relating two axes unifies them; where they differ in structure one refines the other, as types do in Hindley-Milner
inference. An `Axis` is a plain number; the `Algebra` that made it knows what it stands for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NewType

import sympy

from graphprune.ir.types import Size

Axis = NewType("Axis", int)
Form = tuple[Literal["product", "concat"], tuple[Axis, ...]]


@dataclass(frozen=True)
class Lock:
    """Why an axis may not shrink: the node at which it was found, and the reason in words."""

    node: str
    reason: str


@lru_cache(maxsize=65536)
def divide(size: Size, by: Size) -> Size | None:
    """Return the exact quotient of two sizes, or None where it is not a whole expression."""
    if isinstance(size, int) and isinstance(by, int):
        return size // by if by and size % by == 0 else None
    quotient = sympy.cancel(sympy.sympify(size) / by)
    if sympy.denom(quotient) != 1:
        return None
    return simplify(quotient)


def simplify(size: sympy.Expr | int) -> Size:
    return int(size) if isinstance(size, int) or size.is_Integer else size


@lru_cache(maxsize=65536)
def multiply(size: Size, by: Size) -> Size:
    if isinstance(size, int) and isinstance(by, int):
        return size * by
    return simplify(sympy.sympify(size) * by)


@lru_cache(maxsize=65536)
def subtract(size: Size, by: Size) -> Size:
    if isinstance(size, int) and isinstance(by, int):
        return size - by
    return simplify(sympy.sympify(size) - by)


class Algebra:
    """Makes axes, relates them, and answers what they became. Grows monotonically; nothing is ever undone."""

    def __init__(self) -> None:
        self.sizes: list[Size] = []
        self.links: list[Axis] = []
        self.forms: list[Form | None] = []
        self.locks: list[tuple[Axis, Lock]] = []
        self.averaged: list[Axis] = []
        self.edges: list[tuple[Axis, Axis, str]] = []  # what was related, and the node at which
        self.at = ""

    def fresh(self, size: Size) -> Axis:
        """Make a new atomic axis of this size."""
        axis = Axis(len(self.links))
        self.sizes.append(size)
        self.links.append(axis)
        self.forms.append(None)
        return axis

    def find(self, axis: Axis) -> Axis:
        """The representative of everything that this axis was unified with."""
        while self.links[axis] != axis:
            self.links[axis] = self.links[self.links[axis]]
            axis = self.links[axis]
        return axis

    def size(self, axis: Axis) -> Size:
        return self.sizes[axis]

    def form(self, axis: Axis) -> Form | None:
        return self.forms[self.find(axis)]

    def factors(self, axis: Axis) -> tuple[Axis, ...]:
        """The axis as a flat product, outermost first; factors of size one are left out."""
        root = self.find(axis)
        form = self.forms[root]
        if form is None or form[0] == "concat":
            return () if self.sizes[root] == 1 else (root,)
        return tuple(f for part in form[1] for f in self.factors(part))

    def parts(self, axis: Axis) -> tuple[Axis, ...]:
        """The axis as a flat concatenation, first part first."""
        root = self.find(axis)
        form = self.forms[root]
        if form is None or form[0] == "product":
            return (root,)
        return tuple(p for part in form[1] for p in self.parts(part))

    def product(self, factors: Sequence[Axis]) -> Axis:
        """The axis made of these factors, outermost first; the factor itself where it is only one."""
        flat = tuple(f for factor in factors for f in self.factors(factor))
        if len(flat) == 1:
            return flat[0]
        size: Size = 1
        for factor in flat:
            size = multiply(size, self.size(factor))
        axis = self.fresh(size)
        self.refine(axis, ("product", flat) if flat else None)
        return axis

    def concat(self, parts: Sequence[Axis]) -> Axis:
        """The axis made of these parts in order; the part itself where it is only one."""
        flat = tuple(p for part in parts for p in self.parts(part) if self.size(p) != 0)
        if len(flat) == 1:
            return flat[0]
        axis = self.fresh(total(tuple(self.size(p) for p in flat)))
        self.refine(axis, ("concat", flat))
        return axis

    def refine(self, axis: Axis, form: Form | None) -> None:
        """Give an atomic axis its structure."""
        self.forms[axis] = form
        self.edges.extend((axis, part, self.at) for part in (form[1] if form else ()))

    def atoms(self, axis: Axis) -> tuple[Axis, ...]:
        """Every atomic axis inside this one, each once, in order."""
        root = self.find(axis)
        form = self.forms[root]
        if form is None:
            return (root,)
        return tuple(dict.fromkeys(a for part in form[1] for a in self.atoms(part)))

    def lock(self, axis: Axis, node: str, reason: str) -> None:
        """Forbid every atomic axis inside this one to shrink."""
        self.locks.append((axis, Lock(node, reason)))

    def average(self, axis: Axis) -> None:
        """Mark every atomic axis inside this one as averaged over."""
        self.averaged.append(axis)

    def unify(self, left: Axis, right: Axis) -> bool:
        """Make two axes the same one. Returns False where they do not fit; parts that did fit stay related."""
        self.edges.append((left, right, self.at))
        left, right = self.find(left), self.find(right)
        if left == right:
            return True
        if self.sizes[left] != self.sizes[right]:
            return False
        one, other = self.forms[left], self.forms[right]
        if one is not None and other is not None and not self.align(left, right, one[0], other[0]):
            return False
        source, target = (left, right) if one is None else (right, left)
        self.links[self.find(source)] = self.find(target)
        return True

    def align(self, left: Axis, right: Axis, one: str, other: str) -> bool:
        """Relate two structured axes part by part."""
        if one == other:
            pieces = self.factors if one == "product" else self.parts
            return self.align_lists(list(pieces(left)), list(pieces(right)), one)
        concat, product = (left, right) if one == "concat" else (right, left)
        return self.align_mixed(concat, product)

    def align_lists(self, left: list[Axis], right: list[Axis], form: str) -> bool:
        """Walk two lists of factors or of parts from the front; the larger entry is refined by the smaller."""
        products = form == "product"
        cut, pieces = (self.factor, self.factors) if products else (self.split, self.parts)
        while left and right:
            a, b = left.pop(0), right.pop(0)
            sizes = self.size(a), self.size(b)
            if sizes[0] == sizes[1]:
                if not self.unify(a, b):
                    return False
                continue
            first = divide(sizes[1], sizes[0]) is not None if products else _smaller(*sizes)
            small, big, rest = (a, b, right) if first else (b, a, left)
            pair = cut(big, self.size(small))
            if pair is None or not self.unify(pair[0], small):
                return False
            rest[:0] = pieces(pair[1])
        return not left and not right

    def align_mixed(self, concat: Axis, product: Axis) -> bool:
        """Split a product at every boundary of a concatenation, then relate the pieces."""
        rest = product
        parts = self.parts(concat)
        for part in parts[:-1]:
            pair = self.split(rest, self.size(part))
            if pair is None or not self.unify(part, pair[0]):
                return False
            rest = pair[1]
        return self.unify(parts[-1], rest)

    def factor(self, axis: Axis, outer: Size) -> tuple[Axis, Axis] | None:
        """Refine an axis into a product whose outer factor has this size; None where it can not be."""
        inner = divide(self.size(axis), outer)
        if inner is None:
            return None
        root = self.find(axis)
        form = self.forms[root]
        if form is not None and form[0] == "product":
            return self.regroup_factors(self.factors(root), outer)
        pair = (self.fresh(outer), self.fresh(inner))
        if form is None:
            self.refine(root, ("product", pair))
        elif not self.unify(self.product(pair), root):
            return None
        return pair

    def regroup_factors(self, factors: Sequence[Axis], outer: Size) -> tuple[Axis, Axis] | None:
        regrouped = self.regroup(factors, (outer, None))
        return None if regrouped is None else (regrouped[0], regrouped[1])

    def split(self, axis: Axis, at: Size) -> tuple[Axis, Axis] | None:
        """Refine an axis into a concatenation with a boundary at this index; None where it can not be."""
        root = self.find(axis)
        form = self.forms[root]
        if not _smaller(0, at) or not _smaller(at, self.sizes[root]):
            return None
        if form is None:
            pair = (self.fresh(at), self.fresh(subtract(self.sizes[root], at)))
            self.refine(root, ("concat", pair))
            return pair
        return self.split_concat(root, at) if form[0] == "concat" else self.split_product(root, at)

    def split_concat(self, axis: Axis, at: Size) -> tuple[Axis, Axis] | None:
        before: list[Axis] = []
        after = list(self.parts(axis))
        while _smaller(0, at):
            part = after.pop(0)
            if _smaller(at, self.size(part)):
                pair = self.split(part, at)
                if pair is None:
                    return None
                part = pair[0]
                after.insert(0, pair[1])
            before.append(part)
            at = subtract(at, self.size(part))
        return self.concat(before), self.concat(after)

    def split_product(self, axis: Axis, at: Size) -> tuple[Axis, Axis] | None:
        """A product is split in its outermost factor, at a whole number of inner rows."""
        outer, *inner = self.factors(axis)
        row = divide(self.size(axis), self.size(outer))
        index = None if row is None else divide(at, row)
        pair = None if index is None else self.split(outer, index)
        if pair is None:
            return None
        return self.product((pair[0], *inner)), self.product((pair[1], *inner))

    def regroup(self, axes: Sequence[Axis], sizes: Sequence[Size | None]) -> tuple[Axis, ...] | None:
        """Reshape: read the factors in row-major order and group them to the sizes; a final None takes the rest.

        Returns None where the boundaries cut through the middle of a factor.
        """
        pending = [f for axis in axes for f in self.factors(axis)]
        result: list[Axis] = []
        for size in sizes:
            if size is None:
                return (*result, self.product(pending))
            taken: list[Axis] = []
            need: Size = size
            while need != 1:
                if not pending:
                    return None
                step = self.take(pending, need)
                if step is None:
                    return None
                taken.append(step[0])
                need = step[1]
            result.append(self.product(taken) if taken else self.fresh(1))
        return tuple(result) if not pending else None

    def take(self, pending: list[Axis], need: Size) -> tuple[Axis, Size] | None:
        """Take the next factor, or the outer part of it that is still needed; returns it and what is needed then."""
        factor = pending.pop(0)
        left = divide(need, self.size(factor))
        if left is not None:
            return factor, left
        pair = self.factor(factor, need)
        if pair is None:
            return None
        pending[:0] = self.factors(pair[1])
        return pair[0], 1


@lru_cache(maxsize=65536)
def _smaller(left: Size, right: Size) -> bool:
    """Say whether one size is certainly smaller; symbolic sizes are compared as expressions."""
    if isinstance(left, int) and isinstance(right, int):
        return left < right
    return bool((sympy.sympify(right) - left).is_positive)


@lru_cache(maxsize=65536)
def total(sizes: tuple[Size, ...]) -> Size:
    """The sum of sizes."""
    if all(isinstance(size, int) for size in sizes):
        return sum(sizes)
    return simplify(sum((sympy.sympify(s) for s in sizes), sympy.Integer(0)))
