"""Measuring: what one model of a comparison makes of the held-out text and of the tasks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from graphprune.comparison.cells import Protocol
from graphprune.comparison.schema import TaskResult
from graphprune.data.stream.lead import NO_LEAD, find_lead
from graphprune.data.tokens import check_tokens, load_tokenizer, read_tokens
from graphprune.errors import DataError, UsageError
from graphprune.evaluation.language_model import of_graph
from graphprune.evaluation.task_scores import TaskScore, score_tasks
from graphprune.ir.contract import fitting_length, vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place
from graphprune.progress import Progress
from graphprune.running.devices import memory_errors
from graphprune.running.perplexity import Perplexity, perplexity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LOGITS = 1 << 26  # of a batch: 256 MB in float32
_MOST_ROWS = 16
# What chance gets where every answer is as likely; tasks whose questions have several numbers of answers have none.
_CHOICES = {
    "arc_easy": 4,
    "arc_challenge": 4,
    "blimp": 2,
    "boolq": 2,
    "hellaswag": 4,
    "mmlu": 4,
    "openbookqa": 4,
    "piqa": 2,
    "sciq": 4,
    "social_iqa": 3,
    "winogrande": 2,
}


@dataclass(frozen=True)
class TextResult:
    """How well a model predicts the held-out text, and a guess among all its tokens."""

    found: Perplexity
    bytes: int
    window: int
    guess_nats: float
    guess_bits: float


def measure_text(graph: Graph, protocol: Protocol, device: torch.device, progress: Progress) -> TextResult:
    """Read the held-out text in the model's tokens and predict it. Raises DataError, UsageError."""
    vocabulary, tokenizer = vocabulary_size(graph), tokenizer_of(graph)
    if vocabulary is None or "logits" not in graph.outputs:
        raise UsageError(f"{graph.source.name} is no language model; a comparison is measured by bits per byte")
    window, lead = protocol.window, find_lead(tokenizer) if protocol.bos else NO_LEAD
    bos = lead.begin(tokenizer.bos_token_id if protocol.bos else None)
    more = lead.more(bos)
    if fitting_length(graph, window + more) < window + more:
        raise UsageError(
            f"windows of {window} tokens are longer than the model's context of "
            f"{fitting_length(graph, window + more) - more}; lower --window"
        )
    tokens, size = read_tokens(tokenizer, protocol.text, protocol.field, protocol.text_bytes, protocol.text_tokens)
    check_tokens(tokens, vocabulary, 2, protocol.text)
    here = graph if device.type == "cpu" else place(graph, device)
    with memory_errors("lower --window, or compute with --device cpu"):
        found = perplexity(
            here,
            tokens,
            window,
            max(1, min(_MOST_ROWS, _LOGITS // (window * vocabulary))),
            stride=protocol.stride,
            bos=bos,
            text_bytes=size,
            lead=lead,
            progress=lambda done, total: progress("measuring", done, total),
        )
    if not math.isfinite(found.nats_per_token) or found.bits_per_byte is None:
        raise DataError("the model computes no finite numbers on the held-out text")
    nats = math.log(vocabulary)
    return TextResult(found, size, window, nats, found.bits_per_byte * nats / found.nats_per_token)


def tokenizer_of(graph: Graph) -> "PreTrainedTokenizerBase":
    if graph.source.files is None:
        raise DataError("the model has no folder with a tokenizer; copy its files into the folder")
    return load_tokenizer(graph.source.files, graph.source.trusted)


def measure_tasks(graph: Graph, protocol: Protocol, progress: Progress) -> list[TaskResult]:
    """The scores on the tasks, groups first."""
    if not protocol.tasks:
        return []
    progress("tasks")
    model = of_graph(graph, tokenizer_of(graph))
    scores = score_tasks(
        model,
        protocol.tasks,
        protocol.eval_data,
        protocol.task_limit,
        progress=lambda done, total: progress("tasks", done, total),
    )
    return list(task_results(scores))


def task_results(scores: tuple[TaskScore, ...]) -> Iterator[TaskResult]:
    for score in (each for each in scores if math.isfinite(each.value)):
        error = score.standard_error
        choices = _CHOICES.get(score.task.removesuffix("_local")) or (2 if score.task.startswith("blimp") else None)
        yield TaskResult(
            task=score.task,
            metric=score.metric,
            value=score.value,
            standard_error=error if error is not None and math.isfinite(error) else None,
            examples=score.examples,
            guess=1 / choices if choices and score.metric.startswith("acc") else None,
            group=score.group,
        )
