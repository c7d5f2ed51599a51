"""Quantities: what a budget limits - parameters, the bytes of a file or of the cache, the time of a token."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, final

from graphprune.amounts import show_bytes
from graphprune.analysis.cost import ONE, Polynomial
from graphprune.analysis.groups import Groups
from graphprune.errors import UsageError
from graphprune.spec import build, split_spec

if TYPE_CHECKING:
    from graphprune.ir.graph import Graph

Precision = Literal["fp32", "half", "int8", "int4"]
_OPERATOR_BYTES = 450  # of an operator in a model file: names, attributes, and what it becomes
_SCALE = 4  # bytes of the scale of a packed block or column


@dataclass(frozen=True)
class Quantity(ABC):
    """Something that a model of given widths costs, as a polynomial in units of 1/`unit`. Subclasses are final."""

    name: ClassVar[str]

    @property
    def unit(self) -> int:
        """How many of the polynomial's units make one of what users see."""
        return 1

    @abstractmethod
    def cost(self, groups: Groups) -> Polynomial:
        """The polynomial over the ids of the groups and branches."""

    @abstractmethod
    def show(self, cost: int) -> str:
        """A cost as users read it."""


@final
@dataclass(frozen=True)
class Parameters(Quantity):
    """Parameters, tied ones counted once."""

    name: ClassVar[str] = "parameters"

    def cost(self, groups: Groups) -> Polynomial:
        return groups.costs.parameters

    def show(self, cost: int) -> str:
        return f"{cost:,} parameters"


@final
@dataclass(frozen=True)
class CacheBytes(Quantity):
    """Bytes that one token of context takes in the cache, in the type of the graph."""

    name: ClassVar[str] = "cache"

    def cost(self, groups: Groups) -> Polynomial:
        return groups.costs.cache_bytes_per_token

    def show(self, cost: int) -> str:
        return f"{show_bytes(cost)} of cache a token"


@final
@dataclass(frozen=True)
class FileBytes(Quantity):
    """Bytes of a model file: its weights, and an allowance for its operators.

    `precision` half stores two bytes an element; int8 and int4 pack the matrices of linear layers, int4 in blocks of
    `block` with a scale each, an offset unless `symmetric`, of four bytes with `fractions`, and with `embeddings`
    tables as well. The last block of a row is counted whole, so a file is never larger than what is said here.
    `buffers` says whether they are in the file.
    """

    name: ClassVar[str] = "file"
    precision: Precision = "fp32"
    block: int = 32
    symmetric: bool = False
    embeddings: bool = False
    buffers: bool = True
    place: str = ""
    fractions: bool = False

    @property
    def unit(self) -> int:
        return 2 * self.block

    def cost(self, groups: Groups) -> Polynomial:
        held, whole = groups.costs.storage, 2 if self.precision == "half" else 4
        tables = self.packed(held.tables, held.rows) if self.embeddings else held.tables * (whole * self.unit)
        plain = held.others * (whole * self.unit)
        buffers = held.buffer_bytes * self.unit if self.buffers else Polynomial({})
        operators = ONE * (held.operators * _OPERATOR_BYTES * self.unit)
        return self.packed(held.matrices, held.outputs) + tables + plain + buffers + operators

    def packed(self, elements: Polynomial, rows: Polynomial) -> Polynomial:
        """A matrix whose rows (one an output) are packed."""
        if self.precision in ("fp32", "half"):
            return elements * ((2 if self.precision == "half" else 4) * self.unit)
        if self.precision == "int8":
            return elements * self.unit + rows * ((_SCALE + 1) * self.unit)
        # A block has block/2 bytes, a scale and half a byte of offset; a row may end in a block with one element.
        twice = self.block + 2 * _SCALE + (2 * _SCALE if self.fractions else 0 if self.symmetric else 1)
        return elements * twice + rows * ((self.block - 1) * twice + (0 if self.symmetric else self.block))

    def show(self, cost: int) -> str:
        return f"{show_bytes(cost // self.unit)} in {self.place or 'a file'}"


@final
@dataclass(frozen=True)
class Latency(Quantity):
    """The time of a decoded token, in parts of the source's: what is fixed, and what goes with costs.

    All are whole numbers: a token of the source takes `unit`.
    """

    name: ClassVar[str] = "latency"
    fixed: int = 0
    per_multiplication: int = 1
    per_cache_byte: int = 0

    @property
    def unit(self) -> int:
        return 10**15

    def cost(self, groups: Groups) -> Polynomial:
        costs = groups.costs
        moving = costs.macs_per_token * self.per_multiplication + costs.cache_bytes_per_token * self.per_cache_byte
        return moving + ONE * self.fixed

    def show(self, cost: int) -> str:
        return f"{cost / self.unit:.1%} of the time of a token"


def checkpoint_bytes(graph: "Graph", place: str) -> FileBytes:
    """What a checkpoint takes: weights in the source's type where that has two bytes, no buffers."""
    half = graph.source.dtype is not None and graph.source.dtype.itemsize == 2
    return FileBytes("half" if half else "fp32", buffers=False, place=place)


_KNOWN: dict[str, type[Quantity]] = {cls.name: cls for cls in (Parameters, CacheBytes, FileBytes, Latency)}


def parse_quantity(text: str) -> Quantity:
    """Read a quantity from a spec such as `file{precision=int4}`. Raises UsageError."""
    name, options = split_spec(text)
    if name not in _KNOWN:
        raise UsageError(f"unknown quantity {name}; use {', '.join(_KNOWN)}")
    found = build(_KNOWN[name], name, options)
    assert isinstance(found, Quantity)
    return found
