"""Cost as a polynomial: parameters, multiplications, cache bytes and file bytes in terms of the axis sizes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Costs:
    """What a model of given widths costs; every field is a polynomial over the same variables."""

    parameters: Polynomial
    weight_bytes: Polynomial
    macs_per_token: Polynomial
    cache_bytes_per_token: Polynomial
