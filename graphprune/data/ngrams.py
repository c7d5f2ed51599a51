"""Token trigrams: what counting a text tells of another, the least that a language model must beat."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[numpy.int64]
_ORDER = 3


@dataclass(frozen=True, eq=False)
class Counts:
    """Every run of some tokens that occurs, as one number each, sorted, with how often it occurs."""

    runs: Ids
    times: Ids

    def of(self, runs: Ids) -> Ids:
        """How often each of these occurs."""
        if len(self.runs) == 0:
            return numpy.zeros(len(runs), numpy.int64)
        places = numpy.searchsorted(self.runs, runs).clip(max=len(self.runs) - 1)
        return numpy.where(self.runs[places] == runs, self.times[places], 0)


@dataclass(frozen=True, eq=False)
class Trigrams:
    """Counts of one, two and three tokens in a row, of a text in a vocabulary of `vocabulary` tokens."""

    vocabulary: int
    orders: tuple[Counts, ...]

    def nats(self, tokens: Tensor) -> float:
        """Nats of a stream of tokens, every token predicted from the two before it.

        Orders are interpolated as Witten and Bell do it, down to a guess among all tokens: a context that was followed
        by many kinds of token is trusted less. No parameter is to be chosen.
        """
        ids = pad(tokens.numpy().astype(numpy.int64), self.vocabulary)
        chance = numpy.full(len(tokens), 1 / self.vocabulary)
        for order, counts in enumerate(self.orders, 1):
            runs = join(ids, order, self.vocabulary)[_ORDER - order :]
            contexts = runs // (self.vocabulary + 1)
            seen, kinds = followers(counts, self.vocabulary)
            total, various = seen.of(contexts), kinds.of(contexts)
            trusted = numpy.maximum(total + various, 1)
            known = numpy.where(total > 0, (counts.of(runs) + various * chance) / trusted, chance)
            chance = known
        return float(-numpy.log(chance).sum())


def count_trigrams(batches: Sequence[Tensor], vocabulary: int) -> Trigrams:
    """Count the tokens of batches [rows, length]; nothing is counted across rows."""
    rows = [batch.numpy().astype(numpy.int64) for batch in batches]
    return Trigrams(vocabulary, tuple(count_runs(rows, order, vocabulary) for order in range(1, _ORDER + 1)))


def bits_per_byte(batches: Sequence[Tensor], vocabulary: int, tokens: Tensor, text_bytes: int) -> float:
    """Bits a byte that trigrams of the batches take for a stream of tokens, the text of which has so many bytes."""
    return count_trigrams(batches, vocabulary).nats(tokens) / math.log(2) / text_bytes


def guess_bits_per_byte(vocabulary: int, tokens: Tensor, text_bytes: int) -> float:
    """Bits a byte of a guess for which all tokens are equally likely."""
    return len(tokens) * math.log2(vocabulary) / text_bytes


def count_runs(rows: Sequence[Ids], order: int, vocabulary: int) -> Counts:
    found = [join(row, order, vocabulary).ravel() for row in rows if row.shape[-1] >= order]
    every = numpy.concatenate(found) if found else numpy.zeros(0, numpy.int64)
    return Counts(*numpy.unique(every, return_counts=True))


def followers(counts: Counts, vocabulary: int) -> tuple[Counts, Counts]:
    """How often each context was followed by something, and by how many kinds of token."""
    contexts, starts, kinds = numpy.unique(counts.runs // (vocabulary + 1), return_index=True, return_counts=True)
    totals = numpy.add.reduceat(counts.times, starts) if len(starts) else counts.times
    return Counts(contexts, totals), Counts(contexts, kinds)


def join(ids: Ids, order: int, vocabulary: int) -> Ids:
    """Every run of `order` tokens along the last dimension as one number, to the base of the vocabulary and one more,
    which stands before a text's beginning. Three of 2 million tokens fit in 63 bits."""
    length = ids.shape[-1] - order + 1
    result = numpy.zeros((*ids.shape[:-1], length), numpy.int64)
    for place in range(order):
        result = result * (vocabulary + 1) + ids[..., place : place + length]
    return result


def pad(ids: Ids, vocabulary: int) -> Ids:
    """A stream with what stands before its beginning, a token that was never counted."""
    return numpy.concatenate([numpy.full(_ORDER - 1, vocabulary, numpy.int64), ids])
