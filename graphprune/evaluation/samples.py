"""Samples: how a model goes on from a text."""

from collections.abc import Sequence
from pathlib import Path

import torch

from graphprune.budget.installed import open_model
from graphprune.data.calibration import Text
from graphprune.data.tokens import load_tokenizer
from graphprune.evaluation.measures import LARGEST_MEASURED
from graphprune.ir.graph import Graph
from graphprune.running.observations import greedy
from graphprune.running.runners import graph_runner

_SAMPLE_TOKENS = 48


def onnx_sample(folder: Path, text: Text | None, graph: Graph) -> str:
    """A prompt from the held-out text and how the ONNX model goes on from it; empty where there is none."""
    if text is None or graph.source.files is None or len(text.held_out) < 16:
        return ""
    made = open_model(folder, "cpu").generate([prompt_of(text)], max_new_tokens=_SAMPLE_TOKENS)[0]
    return read_tokens(text, graph, made)


def two_samples(text: Text | None, source: Graph, after: str) -> tuple[tuple[str, str], ...]:
    """How the source goes on from the same prompt, and `after`; empty without a sample, or for a large source."""
    if not after or text is None or source.parameter_count() > LARGEST_MEASURED:
        return ()
    with torch.no_grad():
        made, _ = greedy(graph_runner(source), torch.tensor([prompt_of(text)]), _SAMPLE_TOKENS)
    return (("before", read_tokens(text, source, made.tolist())), ("after", after))


def prompt_of(text: Text) -> list[int]:
    return ([] if text.bos is None else [text.bos]) + list(text.held_out[:16].tolist())


def read_tokens(text: Text, graph: Graph, made: Sequence[int]) -> str:
    """The prompt and what came after it, as text."""
    assert graph.source.files is not None
    return str(
        load_tokenizer(graph.source.files, graph.source.trusted).decode(
            prompt_of(text) + list(made), skip_special_tokens=True
        )
    )
