"""Offloaded: a mixture whose experts are streamed as a language model, and what its loads came to, in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch

from graphprune.amounts import show_bytes
from graphprune.data.tokens import load_tokenizer
from graphprune.errors import UsageError
from graphprune.evaluation.generation import pad_left
from graphprune.evaluation.language_model import LanguageModel, name_of, sizes
from graphprune.models.kinds import kind_of, writes_text
from graphprune.offload.opening import Offloaded, open_offloaded
from graphprune.running.runners import runner_of
from graphprune.running.sampling import Sampling


def load_offloaded(
    model: str, memory: str, log: Path | None = None, dtype: torch.dtype | None = None
) -> tuple[LanguageModel, Offloaded]:
    """A folder, hub id or `demo` whose experts are read as tokens are routed to them; see `open_offloaded`.

    Raises UsageError, SourceError.
    """
    found = open_offloaded(model, memory, dtype, log)
    if kind_of(found.model) != "decoder" and not writes_text(found.model):
        raise UsageError(f"{model} is no language model with a cache; it cannot be run with --memory")
    with found.without_experts():
        runner = runner_of(found.model)
    context, vocabulary = sizes(found.model.config.get_text_config().to_dict())
    kind = name_of(found.model.dtype)
    return LanguageModel("checkpoint", runner, load_tokenizer(found.folder), context, vocabulary, kind), found


@final
@dataclass(frozen=True, eq=False)
class StreamedWriter:
    """Writes text as an open model does, with a mixture whose experts are streamed."""

    model: LanguageModel
    provider: str = "checkpoint"

    def stream(self, ids: Sequence[int], tokens: int, stop: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """The new tokens of one prompt as they are made, up to its first stop token."""
        for step in self.steps([ids], tokens, stop, sampling):
            yield step[0]

    def generate(
        self, ids: Sequence[Sequence[int]], tokens: int, stop: Sequence[int], sampling: Sampling
    ) -> list[list[int]]:
        """The new tokens of every prompt, each ending before its first stop token."""
        made: list[list[int]] = [[] for _ in ids]
        for step in self.steps(ids, tokens, stop, sampling):
            for row, token in step.items():
                made[row].append(token)
        return made

    def steps(
        self, prompts: Sequence[Sequence[int]], tokens: int, stop: Sequence[int], sampling: Sampling
    ) -> Iterator[dict[int, int]]:
        """The next token of every prompt that goes on, by its place, step by step."""
        ids, mask = pad_left(prompts)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        random, seen, past = np.random.default_rng(sampling.seed), [list(row) for row in prompts], None
        running = set(range(len(prompts)))
        for _ in range(tokens):
            with torch.no_grad():
                logits, past = self.model.runner(ids, mask, positions, past)
            chosen = sampling.choose(logits[:, -1].float().numpy(), random, seen)
            running -= {row for row in running if int(chosen[row]) in stop}
            if not running:
                return
            yield {row: int(chosen[row]) for row in sorted(running)}
            for row, token in zip(seen, chosen, strict=True):
                row.append(int(token))
            ids = torch.from_numpy(np.asarray(chosen))[:, None]
            mask, positions = torch.cat([mask, torch.ones_like(ids)], 1), positions[:, -1:] + 1


def describe_loads(offloaded: Offloaded) -> str:
    """What was read, in a line."""
    loads = offloaded.residents.loads()
    peak, share = offloaded.always + loads.peak, loads.found / max(1, loads.visits)
    return (
        f"weights in memory: {show_bytes(peak)} at most of {show_bytes(offloaded.whole)}; {loads.loads:,} loads, "
        f"{show_bytes(loads.loaded_bytes)} in {loads.load_seconds:.1f} s, {loads.waited_seconds:.1f} s waited; "
        f"{share:.0%} of {loads.visits:,} visits found their expert in memory"
    )
