"""Examples: what an encoder is calibrated on and measured by, read from a text of the user's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from graphprune.data.calibration import split_text
from graphprune.data.sources import read_texts
from graphprune.data.tokens import load_tokenizer
from graphprune.encoders.agreement import Agreement, agreements
from graphprune.encoders.embeddings import Embedding, Named, require_embeddings
from graphprune.encoders.losses import Similarity, with_aims
from graphprune.encoders.passages import (
    check_passages,
    draw_passages,
    make_batches,
    split_passages,
    tokenise,
)
from graphprune.encoders.pooling import longest_text
from graphprune.errors import DataError
from graphprune.ir.contract import fitting_length, vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.running.loss import Loss, RowMean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTES_PER_TOKEN = 64  # sixteen times what is drawn, at four bytes a token
_MEASURED = 256  # passages


@dataclass(frozen=True, eq=False)
class Examples:
    """Batches to calibrate on, the loss that goes with them, and what is only measured on.

    `draw` gives the batches of any stage of pruning. `measure` compares a graph with the source that the examples were
    read for, on what was held out: the agreement of each embedding.
    """

    batches: tuple[Named, ...]
    loss: Loss
    draw: Callable[[int], tuple[Named, ...]]
    measure: Callable[[Graph, Graph], Sequence[tuple[str, Agreement]]]
    tokenizer: "PreTrainedTokenizerBase | None" = None


def prepare_passages(
    graph: Graph, spec: str, tokens: int, length: int, seed: int, held_out: str | None = None, field: str = "text"
) -> Examples:
    """Read, split and tokenise text for an encoder of texts: `tokens` tokens of passages of `length` at most.

    The loss is how far embeddings are from those that the graph makes itself. Raises DataError where there is too
    little.
    """
    embeddings, tokenizer = require_embeddings(graph), own_tokenizer(graph)
    longest = fitting_passage(graph, length)
    train, held = split_text(partial(read_texts, field=field), spec, _BYTES_PER_TOKEN * tokens, held_out)
    passages = tokenise(tokenizer, list(split_passages(train)), longest)
    check_passages(passages, vocabulary_size(graph), spec)
    kept = tuple(split_passages(held))[:_MEASURED]

    def draw(stage: int) -> tuple[Named, ...]:
        batches = make_batches(draw_passages(passages, tokens, seed, stage), graph.inputs)
        return tuple(with_aims(graph, embeddings, batches, seed + stage))

    measure = partial(measure_texts, kept, length, embeddings)
    return Examples(draw(0), RowMean(Similarity(embeddings)), draw, measure, tokenizer)


def measure_texts(
    texts: Sequence[str], length: int, embeddings: Sequence[Embedding], source: Graph, graph: Graph
) -> Sequence[tuple[str, Agreement]]:
    """How a graph agrees with its source on texts, each read with its own tokenizer."""
    if len(texts) < 2:
        return ()
    given, taken = (
        make_batches(tokenise(own_tokenizer(each), texts, fitting_passage(each, length)), each.inputs)
        for each in (source, graph)
    )
    return tuple(agreements(source, given, graph, taken, embeddings))


def fitting_passage(graph: Graph, length: int) -> int:
    """The tokens of a passage at most: what is wanted, what the model was made for, what its users cut texts at."""
    longest = longest_text(graph.source.files)
    return fitting_length(graph, length if longest is None else min(length, longest))


def own_tokenizer(graph: Graph) -> "PreTrainedTokenizerBase":
    """The tokenizer that goes with a graph. Raises DataError where there is none."""
    if graph.source.files is None:
        raise DataError("the model has no folder with a tokenizer, so text cannot be read; pass batches instead")
    return load_tokenizer(graph.source.files, graph.source.trusted)
