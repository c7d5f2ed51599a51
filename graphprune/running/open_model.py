"""Open models: what a backend wrote, run in the runtime that its format is for."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphprune.running.sampling import GREEDY, Sampling
from graphprune.running.timing import Rate, rates_in_turns

Array = NDArray[Any]
Ids = Sequence[Sequence[int]]


class OpenModel(ABC):
    """A written model, open in its runtime. Subclasses are final. `path` is its file.

    Encoders have `infer` alone; decoders keep a cache and make tokens.
    """

    path: Path

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """The names of what it takes."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """The names of what it gives."""

    @property
    @abstractmethod
    def precision(self) -> str:
        """What the weights are kept in: fp32, fp16, int8 or int4."""

    @property
    @abstractmethod
    def provider(self) -> str:
        """Where it runs, as the runtime calls it."""

    @abstractmethod
    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run it on named arrays; returns every output by name. Raises GraphpruneError on a bad input."""

    @abstractmethod
    def empty_past(self, batch: int) -> tuple[Array, ...]:
        """The cache before the first token; nothing for an encoder."""

    @abstractmethod
    def run(
        self, ids: Array, mask: Array, positions: Array, past: Sequence[Array] | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        """Run one step of a decoder.

        `ids` and `positions` are int64 [batch, sequence], `mask` int64 [batch, past + sequence], `past` what the last
        step returned (None: empty). Returns logits [batch, sequence, vocabulary] and the cache for the next step.
        """

    @abstractmethod
    def steps(self, ids: Ids, sampling: Sampling = GREEDY, room: int = 256) -> Iterator[NDArray[np.int64]]:
        """Yield the next token of every prompt, without end. Prompts are padded on the left to one length.

        `room` is how many tokens are expected in all.
        """

    def generate(
        self, ids: Ids, max_new_tokens: int, stop: Sequence[int] = (), sampling: Sampling = GREEDY
    ) -> list[list[int]]:
        """Return the new tokens of every prompt, each ending before its first stop token."""
        result: list[list[int]] = [[] for _ in ids]
        longest = max(map(len, ids), default=0)
        running = set(range(len(ids)))
        for _, chosen in zip(range(max_new_tokens), self.steps(ids, sampling, longest + max_new_tokens), strict=False):
            running -= {row for row in running if int(chosen[row]) in stop}
            for row in running:
                result[row].append(int(chosen[row]))
            if not running:
                break
        return result

    def stream(
        self, ids: Sequence[int], max_new_tokens: int, stop: Sequence[int] = (), sampling: Sampling = GREEDY
    ) -> Iterator[int]:
        """Yield the new tokens of one prompt as they are made, up to its first stop token."""
        steps = self.steps([ids], sampling, len(ids) + max_new_tokens)
        for _, chosen in zip(range(max_new_tokens), steps, strict=False):
            if int(chosen[0]) in stop:
                return
            yield int(chosen[0])

    def run_timed(self, prompt_length: int, new_tokens: int) -> tuple[float, float]:
        """Seconds of the prefill, and of `new_tokens` cached steps after it."""
        steps = self.steps([[1] * prompt_length], room=prompt_length + new_tokens + 1)
        start = time.perf_counter()
        next(steps)
        middle = time.perf_counter()
        for _ in range(new_tokens):
            next(steps)
        return middle - start, time.perf_counter() - middle

    def tokens_per_second(self, prompt_length: int, new_tokens: int) -> tuple[Rate, Rate]:
        """Tokens a second of the prefill and of cached decoding of one prompt: medians of several runs."""
        return rates_in_turns((self,), prompt_length, new_tokens)[0]
