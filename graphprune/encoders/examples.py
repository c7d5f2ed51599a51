"""Examples: what an encoder is calibrated on and measured by, read from text or from pairs of the user's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from graphprune.data.calibration import split_text
from graphprune.data.sources import read_texts
from graphprune.data.tokens import load_tokenizer
from graphprune.encoders.agreement import Agreement, agreement, embed_in_order
from graphprune.encoders.embeddings import Embedding, Named, require_embeddings
from graphprune.encoders.images import load_processor
from graphprune.encoders.losses import Kind, Similarity, make_loss, with_aims
from graphprune.encoders.pairs import Pair, Reader, base_of, list_pairs, make_pair_batches, read_pairs, require_inputs
from graphprune.encoders.passages import (
    check_passages,
    draw_passages,
    make_batches,
    split_passages,
    tokenise,
)
from graphprune.encoders.pooling import longest_text
from graphprune.encoders.recall import recall_at
from graphprune.errors import DataError
from graphprune.ir.contract import context_length, fitting_length, vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.running.loss import Loss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTES_PER_TOKEN = 64  # sixteen times what is drawn, at four bytes a token
_BYTES_OF_TRAINED = 4  # of each token: so much text is seen about once
_EPOCH = 1 << 17  # tokens, of which batches of one length are made
_TRAINING = 1000  # epochs are drawn as stages behind those of pruning
_VARIETY = 16  # pairs are drawn from so many times as many
_MEASURED = 256  # passages, or pairs
_NO_LIMIT = 1 << 30


@dataclass(frozen=True)
class Left:
    """What is left of a source's embeddings, by their names, and recall@1 of source and result, of pairs."""

    embeddings: tuple[tuple[str, Agreement], ...] = ()
    recall: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Examples:
    """Batches to calibrate on, the loss that goes with them, and what is only measured on.

    `draw` gives the batches of any stage of pruning, `epochs` those of an epoch of training. `measure` compares a
    source with a graph made from it, on what was held out.
    """

    batches: tuple[Named, ...]
    loss: Loss
    draw: Callable[[int], tuple[Named, ...]]
    epochs: Callable[[int], tuple[Named, ...]]
    measure: Callable[[Graph, Graph], Left]
    tokenizer: "PreTrainedTokenizerBase | None" = None


@dataclass(frozen=True)
class Wanted:
    """What is asked for of examples: how many, how long texts are, which loss, and where they are from.

    `trained` are the tokens that a training takes.
    """

    spec: str
    samples: int
    length: int
    seed: int = 0
    loss: Kind = "auto"
    held_out: str | None = None
    field: str = "text"
    trained: int = 0


def prepare_examples(graph: Graph, wanted: Wanted) -> Examples:
    """The examples of a model with embeddings. Raises DataError where there are too few, UsageError."""
    prepare = prepare_passages if len(require_embeddings(graph)) == 1 else prepare_pairs
    return prepare(graph, wanted)


def prepare_passages(graph: Graph, wanted: Wanted) -> Examples:
    """Read, split and tokenise text for an encoder of texts: `samples` x `length` tokens of passages.

    The loss is how far embeddings are from those that the graph makes itself.
    """
    embeddings, tokenizer = require_embeddings(graph), own_tokenizer(graph)
    loss = make_loss(graph, embeddings, wanted.loss)
    longest, tokens = fitting_passage(graph, wanted.length), wanted.samples * wanted.length
    read = partial(read_texts, field=wanted.field)
    most = max(_BYTES_PER_TOKEN * tokens, _BYTES_OF_TRAINED * wanted.trained)
    train, held = split_text(read, wanted.spec, most, wanted.held_out)
    passages = tokenise(tokenizer, list(split_passages(train)), longest)
    check_passages(passages, vocabulary_size(graph), wanted.spec)
    kept = tuple(split_passages(held))[:_MEASURED]

    def draw(stage: int) -> tuple[Named, ...]:
        batches = make_batches(draw_passages(passages, tokens, wanted.seed, stage), graph.inputs)
        return tuple(with_aims(graph, embeddings, batches, wanted.seed + stage))

    def epochs(number: int) -> tuple[Named, ...]:
        chosen = draw_passages(passages, _EPOCH, wanted.seed, _TRAINING + number)
        return make_batches(chosen, graph.inputs)

    measure = partial(measure_texts, kept, wanted.length, embeddings)
    return Examples(draw(0), loss, draw, epochs, measure, tokenizer)


def measure_texts(
    texts: Sequence[str], length: int, embeddings: Sequence[Embedding], source: Graph, graph: Graph
) -> Left:
    """How a graph agrees with its source on texts, each read with its own tokenizer."""
    if len(texts) < 2:
        return Left()
    before, after = (
        embed_in_order(
            each,
            embeddings,
            make_batches(tokenise(own_tokenizer(each), texts, fitting_passage(each, length)), each.inputs),
        )
        for each in (source, graph)
    )
    return Left(tuple((name, agreement(before[name], after[name])) for name in before))


def prepare_pairs(graph: Graph, wanted: Wanted) -> Examples:
    """Read `samples` pairs of an image and a text for a model that compares them."""
    embeddings = require_embeddings(graph)
    require_inputs(graph.inputs, graph.source.title)
    loss, reader = make_loss(graph, embeddings, wanted.loss), own_reader(graph, wanted.spec)
    known = read_pairs(wanted.spec, wanted.field, _VARIETY * wanted.samples)
    held = list_pairs(wanted.held_out or wanted.spec, wanted.field, _MEASURED)

    def chosen(stage: int, count: int) -> tuple[Named, ...]:
        generator = torch.Generator().manual_seed(wanted.seed * 1_000_003 + stage)
        order = torch.randperm(len(known), generator=generator).tolist()
        return make_pair_batches([known[place] for place in order[:count]], reader, graph.inputs)

    def draw(stage: int) -> tuple[Named, ...]:
        batches = chosen(stage, max(2, wanted.samples))
        aimed = isinstance(getattr(loss, "of", None), Similarity)
        return tuple(with_aims(graph, embeddings, batches, wanted.seed + stage)) if aimed else batches

    measure = partial(measure_pairs, held, own_reader(graph, wanted.held_out or wanted.spec), embeddings)
    epochs = partial(epoch_of_pairs, chosen, len(known))
    return Examples(draw(0), loss, draw, epochs, measure, reader.tokenizer)


def epoch_of_pairs(chosen: Callable[[int, int], tuple[Named, ...]], count: int, number: int) -> tuple[Named, ...]:
    """All pairs in the order of an epoch."""
    return chosen(_TRAINING + number, count)


def measure_pairs(
    pairs: Sequence[Pair], reader: Reader, embeddings: Sequence[Embedding], source: Graph, graph: Graph
) -> Left:
    """How a graph agrees with its source on pairs, and how often each finds what belongs together."""
    if len(pairs) < 2:
        return Left()
    batches = make_pair_batches(pairs, reader, source.inputs)
    before, after = (embed_in_order(each, embeddings, batches) for each in (source, graph))
    images, texts = (each.name for each in embeddings)
    recalls = [recall_at(1, found[images].double() @ found[texts].double().T) for found in (before, after)]
    return Left(tuple((name, agreement(before[name], after[name])) for name in before), (recalls[0], recalls[1]))


def own_reader(graph: Graph, spec: str) -> Reader:
    """What reads pairs for a graph. Raises DataError where its folder lacks a tokenizer or an image processor."""
    tokenizer, files = own_tokenizer(graph), graph.source.files
    assert files is not None
    longest = context_length(graph)
    return Reader(tokenizer, load_processor(files, graph.source.trusted), longest or _NO_LIMIT, base_of(spec))


def fitting_passage(graph: Graph, length: int) -> int:
    """The tokens of a passage at most: what is wanted, what the model was made for, what its users cut texts at."""
    longest = longest_text(graph.source.files)
    return fitting_length(graph, length if longest is None else min(length, longest))


def own_tokenizer(graph: Graph) -> "PreTrainedTokenizerBase":
    """The tokenizer that goes with a graph. Raises DataError where there is none."""
    if graph.source.files is None:
        raise DataError("the model has no folder with a tokenizer, so text cannot be read; pass batches instead")
    return load_tokenizer(graph.source.files, graph.source.trusted)
