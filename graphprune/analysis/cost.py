"""Cost as a polynomial: parameters, multiplications, cache bytes and what files hold, in terms of the axis sizes."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

Term = tuple[str, ...]  # group and branch ids, sorted; an id may occur twice


@dataclass(frozen=True)
class Polynomial:
    """A sum of integer coefficients times products of variables: the width of a group, or 1 or 0 for a branch."""

    terms: Mapping[Term, int]

    def __call__(self, sizes: Mapping[str, int]) -> int:
        """The exact value at the given sizes, one for every variable."""
        return sum(c * math.prod(sizes[name] for name in term) for term, c in self.terms.items())

    def slope(self, sizes: Mapping[str, int], name: str) -> int:
        """How much the value falls when this variable is smaller by one."""
        return self(sizes) - self({**sizes, name: sizes[name] - 1})

    def variables(self) -> frozenset[str]:
        return frozenset(name for term in self.terms for name in term)

    def __add__(self, other: "Polynomial") -> "Polynomial":
        total = Counter(self.terms)
        total.update(other.terms)  # `+` of counters would drop negative terms
        return Polynomial(total)

    def __mul__(self, factor: int) -> "Polynomial":
        return Polynomial({term: factor * count for term, count in self.terms.items()})


NOTHING = Polynomial({})
ONE = Polynomial({(): 1})


@dataclass(frozen=True)
class Storage:
    """What files hold, by how they may pack it.

    `matrices` counts the elements of weights that only linear layers read, `outputs` the outputs of these; `tables` and
    `rows` the elements and rows of tables of embeddings; `others` all other parameters. `buffer_bytes` are bytes.
    `operators` is the number of calls in the graph, which no width changes.
    """

    matrices: Polynomial = NOTHING
    outputs: Polynomial = NOTHING
    tables: Polynomial = NOTHING
    rows: Polynomial = NOTHING
    others: Polynomial = NOTHING
    buffer_bytes: Polynomial = NOTHING
    operators: int = 0


@dataclass(frozen=True)
class Costs:
    """What a model of given widths costs; every polynomial is over the same variables."""

    parameters: Polynomial
    weight_bytes: Polynomial
    macs_per_token: Polynomial
    cache_bytes_per_token: Polynomial
    storage: Storage = field(default_factory=Storage)
