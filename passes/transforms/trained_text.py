"""Trained text: what a pass that trains reads, from its own options and from its context."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphprune.data.conversations import LossOn
from graphprune.data.stream.domain_streams import Packing, open_mixture, read_domains
from graphprune.data.stream.mixture import Mixture, Segment
from graphprune.data.stream.packing import Stream
from graphprune.data.tokens import load_tokenizer
from graphprune.errors import UsageError
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.pipeline.passes import Context
from graphprune.running.perplexity import perplexity
from graphprune.training.learning.domains import Domains, Weighing
from graphprune.training.options import require

_VARIETY, _VARIED_TOKENS = 16, 1 << 24  # a short training draws its rows from this many times its text, up to this much


@dataclass(frozen=True)
class TextOptions:
    """The text: `data` and the `field` of its records where not those of the run, what is learned of it, where tokens
    are kept."""

    data: str | None = None
    field: str | None = None
    loss_on: LossOn = "all"
    bos: bool = False
    cache: str | None = None


def open_text(
    asked: TextOptions, graph: Graph, context: Context, length: int, batch: int, needed: int
) -> Stream | Mixture:
    """The packed rows to train on, of one text or of several; reads `needed` tokens, and more where that is little."""
    data = asked.data or context.data
    if data is None:
        raise UsageError("recover has no text to train on; name some with --data, or data=FILE in its options")
    own = context.cache / "tokens" if context.cache is not None else None
    packing = Packing(
        length,
        context.seed,
        asked.field or context.field,
        asked.loss_on,
        vocabulary_size(graph),
        asked.bos,
        batch,
        max(needed, min(_VARIETY * needed, _VARIED_TOKENS)),
        Path(asked.cache).expanduser() if asked.cache else own,
        context.progress,
    )
    return open_mixture(data, own_tokenizer(graph, context), packing)


def continued(stream: Stream | Mixture, graph: Graph) -> Stream | Mixture:
    """The stream with the weights that an earlier training of the graph came to, where it was of as many domains."""
    found = tuple(
        Segment(start, tuple(weights)) for start, weights in graph.memo.get("schedule", {}).get("segments", ())
    )
    if not isinstance(stream, Mixture) or not found or len(found[0].weights) != len(stream.names):
        return stream
    return replace(stream, segments=found)


def kept_segments(segments: Sequence[Segment]) -> dict[str, list[list[Any]]]:
    """What the next training of the graph finds them by, as plain data; nothing for a single text."""
    return {"segments": [[start, list(weights)] for start, weights in segments]} if segments else {}


def own_tokenizer(graph: Graph, context: Context) -> Any:
    """The tokenizer of the context, or of the model's folder. Raises UsageError."""
    if context.tokenizer is not None:
        return context.tokenizer
    if graph.source.files is None:
        raise UsageError("recover needs a tokenizer, and the model has none; copy its files into the folder")
    return load_tokenizer(graph.source.files, graph.source.trusted)


def find_domains(
    asked: TextOptions, weighing: Weighing, graph: Graph, context: Context, stream: Stream | Mixture
) -> Domains | None:
    """The held-out texts of the domains that are trained on, with how their weights move; None where there are none.

    Without references the unpruned model's own losses are those. Raises UsageError where weights cannot move.
    """
    if not isinstance(stream, Mixture):
        require(not weighing.reweigh, "reweigh moves the weights of several texts; name them, --data a.txt,b.txt")
        return None
    held = context.held_out_name if asked.data is None else None
    tokenizer = own_tokenizer(graph, context)
    texts = None if held is None else read_domains(held, stream, tokenizer, asked.field or context.field)
    if texts is None:
        require(
            not weighing.reweigh, "reweigh needs a held-out text for each domain; name as many with --held-out, or none"
        )
        return None
    if weighing.reweigh and not weighing.references:
        dense = context.placed(context.source or graph)
        losses = tuple(perplexity(dense, text, stream.length).nats_per_token for text in texts)
        weighing = replace(weighing, references=losses)
    return Domains(texts, weighing)
