"""Samples: how a model goes on from a text."""

from collections.abc import Sequence

import torch

from graphprune.context import fitting_run
from graphprune.data.calibration import Text
from graphprune.data.tokens import load_tokenizer
from graphprune.evaluation.measures import LARGEST_MEASURED
from graphprune.ir.contract import context_length
from graphprune.ir.graph import Graph
from graphprune.running.observations import greedy
from graphprune.running.runners import graph_runner

_PROMPT_TOKENS, _SAMPLE_TOKENS = 16, 48


def lengths(graph: Graph, text: Text) -> tuple[int, int]:
    """The tokens of the prompt and after it, where what stands before them takes its part of the context."""
    context = context_length(graph)
    left = None if context is None else max(2, context - text.lead.more(text.bos))
    return fitting_run(left, _PROMPT_TOKENS, _SAMPLE_TOKENS)


def prompt_for(text: Text | None, graph: Graph) -> tuple[list[int], int]:
    """A prompt from the held-out text and how many tokens are to follow it; nothing where there is no such text."""
    if text is None or graph.source.files is None or len(text.held_out) < _PROMPT_TOKENS:
        return [], 0
    return prompt_of(text, graph), lengths(graph, text)[1]


def two_samples(text: Text | None, source: Graph, after: str) -> tuple[tuple[str, str], ...]:
    """How the source goes on from the same prompt, and `after`; empty without a sample, or for a large source."""
    if not after or text is None or source.parameter_count() > LARGEST_MEASURED:
        return ()
    with torch.no_grad():
        made, _ = greedy(graph_runner(source), torch.tensor([prompt_of(text, source)]), lengths(source, text)[1])
    return (("before", read_tokens(text, source, made.tolist())), ("after", after))


def prompt_of(text: Text, graph: Graph) -> list[int]:
    """The first tokens of the held-out text, after the one that texts start with."""
    first = [] if text.bos is None else [text.bos]
    ids = torch.tensor([*first, *text.held_out[:_PROMPT_TOKENS].tolist()][: lengths(graph, text)[0]])
    return [int(id) for id in text.lead.before(ids[None])[0]]


def read_tokens(text: Text, graph: Graph, made: Sequence[int]) -> str:
    """The prompt and what came after it, as text."""
    assert graph.source.files is not None
    tokenizer = load_tokenizer(graph.source.files, graph.source.trusted)
    return str(tokenizer.decode(prompt_of(text, graph) + list(made), skip_special_tokens=True))
