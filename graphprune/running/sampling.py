"""How the next token is chosen from logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from graphprune.errors import UsageError

Logits: TypeAlias = NDArray[np.float16] | NDArray[np.float32] | NDArray[np.float64]  # [batch, vocabulary]


@final
@dataclass(frozen=True)
class Sampling:
    """Greedy at temperature 0; else drawn from the `top_k` best (0: all) that `top_p` of the probability needs.

    `repetition_penalty` above 1 makes tokens that were read or made before less likely: logits are divided by it where
    they are positive, and multiplied where not (arXiv 1909.05858). Tokens of `never` are not chosen.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    never: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0:
            raise UsageError(f"temperature {self.temperature} and top-k {self.top_k} must not be negative")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p is a share of the probability, above 0 and up to 1, not {self.top_p}")
        if self.repetition_penalty <= 0:
            raise UsageError(f"a repetition penalty is above 0 (1: none), not {self.repetition_penalty}")

    def choose(
        self, logits: Logits, random: np.random.Generator, seen: Sequence[Sequence[int]] = ()
    ) -> NDArray[np.int64]:
        """Return one token id for each row of logits [batch, vocabulary]; equal logits give the lowest id.

        `seen` are the tokens of each row so far.
        """
        if self.repetition_penalty != 1 and seen:
            logits = self.penalise(logits, seen)
        if self.never:
            logits = logits.copy()
            logits[:, [id for id in self.never if id < logits.shape[-1]]] = -np.inf
        if self.temperature <= 0:
            return np.asarray(logits.argmax(-1), np.int64)
        scaled = logits.astype(np.float64) / self.temperature
        if 0 < self.top_k < scaled.shape[-1]:
            smallest = np.partition(scaled, -self.top_k, axis=-1)[:, -self.top_k, None]
            scaled = np.where(scaled < smallest, -np.inf, scaled)
        if self.top_p < 1:
            scaled = keep_nucleus(scaled, self.top_p)
        # Adding Gumbel noise and taking the maximum draws from the softmax.
        return np.asarray((scaled + random.gumbel(size=scaled.shape)).argmax(-1), np.int64)

    def penalise(self, logits: Logits, seen: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        result = np.array(logits, np.float64)
        for row, tokens in zip(result, seen, strict=True):
            known = np.unique(np.asarray(tokens, np.int64))
            row[known] = np.where(
                row[known] > 0, row[known] / self.repetition_penalty, row[known] * self.repetition_penalty
            )
        return result


def keep_nucleus(logits: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Leave the fewest likeliest tokens that have this share of the probability (arXiv 1904.09751)."""
    order = np.argsort(-logits, axis=-1, kind="stable")
    ordered = np.take_along_axis(logits, order, axis=-1)
    weights = np.exp(ordered - ordered[:, :1])
    before = np.cumsum(weights, axis=-1) - weights
    dropped = before >= share * weights.sum(-1, keepdims=True)
    dropped[:, 0] = False
    result = logits.copy()
    np.put_along_axis(result, order, np.where(dropped, -np.inf, ordered), axis=-1)
    return result


GREEDY = Sampling()
