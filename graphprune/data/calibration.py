"""The text of a compilation: one part to calibrate on, another, never calibrated on, to measure with."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from graphprune.data.conversations import renderer
from graphprune.data.sources import read_texts, shown_source
from graphprune.data.stream.domains import (
    beginning_and_end,
    each_domain,
    held_out_of,
    interleaved,
    split_domains,
    train_of,
)
from graphprune.data.stream.lead import NO_LEAD, Lead, find_lead
from graphprune.data.tokens import check_documents, encode, fitting_windows, load_tokenizer, split_rows
from graphprune.data.windows import draw_windows, tokenise
from graphprune.errors import DataError
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTES_PER_WINDOW_TOKEN = 64  # sixteen times the text that the windows need, at four bytes a token
_HELD_OUT_BYTES = 200_000
_MEASURED_BYTES, _MEASURED_OF_LARGE, _LARGE = 1 << 15, 1 << 13, 30_000_000
# Rows of a batch at most, and its logits: what a forward and a backward of a large model hold grows with them.
_BATCH, _LOGITS = 8, 1 << 24


@dataclass(frozen=True, eq=False)
class Text:
    """Calibration batches [rows, length], the held-out stream with its number of bytes, the tokenizer, and the held-out
    documents as they were read.

    `draw` gives the batches of any stage of pruning: each has its own, from the same documents. `lead` stands before
    what is measured on.
    """

    batches: tuple[Tensor, ...]
    held_out: Tensor
    held_out_bytes: int
    bos: int | None
    tokenizer: "PreTrainedTokenizerBase | None" = None
    documents: tuple[str, ...] = ()
    draw: Callable[[int], tuple[Tensor, ...]] | None = None
    lead: Lead = NO_LEAD


def prepare_text(
    graph: Graph, spec: str, samples: int, length: int, seed: int, held_out: str | None = None, field: str = "text"
) -> Text:
    """Read, split and tokenise text for a decoder; conversations are read as its chat template renders them.

    Windows lie within documents, see `draw_windows`.

    Without `held_out`, a text of its own, `stdlib` has a split and of any other source the last tenth of what is read
    is held out. Raises DataError where there is not enough.
    """
    if graph.source.files is None:
        raise DataError("the model has no folder with a tokenizer, so text cannot be read; pass batches instead")
    tokenizer = load_tokenizer(graph.source.files, graph.source.trusted)
    samples, length = fitting_windows(graph, samples, length)
    read = partial(read_texts, field=field, render=renderer(tokenizer))
    train, held = split_text(read, spec, _BYTES_PER_WINDOW_TOKEN * samples * length, held_out)
    documents, vocabulary = tokenise(tokenizer, train), vocabulary_size(graph)
    check_documents(documents, vocabulary, length, spec)
    rows = min(_BATCH, max(1, _LOGITS // (length * (vocabulary or 1))))

    def draw(stage: int) -> tuple[Tensor, ...]:
        return split_rows(draw_windows(documents, samples, length, seed, stage), rows)

    stream, lead = encode(tokenizer, held), find_lead(tokenizer)
    first = lead.begin(documents.first)
    return Text(draw(0), stream, count_bytes(held), first, tokenizer, tuple(held), draw, lead)


def measured_bytes(parameters: int) -> int:
    """How much of the held-out text a compilation measures on, by the source's size: as much as takes seconds.

    32 KiB are some 10,000 tokens: perplexity is good to 2 or 3 %, and far better as a ratio of two models.
    """
    return _MEASURED_OF_LARGE if parameters > _LARGE else _MEASURED_BYTES


def measured_part(text: Text, parameters: int) -> Text:
    """The text with no more held out than what a compilation of a source of so many parameters measures on.

    That is the start, and no more than half: by the rest a training chooses its weights, see `watched_part`.
    """
    assert text.tokenizer is not None
    held = tuple(part_held_out(text, parameters)[0])
    return replace(text, held_out=encode(text.tokenizer, held), held_out_bytes=count_bytes(held), documents=held)


def watched_part(text: Text, parameters: int) -> Tensor | None:
    """The tokens that weights may be chosen by: all held-out text but `measured_part`; None where too few."""
    assert text.tokenizer is not None
    tokens = encode(text.tokenizer, part_held_out(text, parameters)[1])
    return tokens if len(tokens) > 1 else None


def part_held_out(text: Text, parameters: int) -> tuple[list[str], list[str]]:
    """The held-out documents in two parts that share no byte."""
    whole = count_bytes(text.documents)
    measured = min(measured_bytes(parameters), (whole + 1) // 2)
    return split_end(list(text.documents), whole - measured)


def count_bytes(texts: Iterable[str]) -> int:
    """Bytes of UTF-8."""
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def split_text(
    read: Callable[..., Iterable[str]], spec: str, limit: int, held_out: str | None = None
) -> tuple[list[str], list[str]]:
    """The text to calibrate on and the text to measure with; no byte is in both where they are one source.

    `read` gives the documents of a source up to a `limit` of bytes.
    """
    if held_out is not None or spec == "stdlib":
        return list(read(spec, limit=limit)), read_held_out(read, held_out or "stdlib:held-out")
    documents = list(read(spec, limit=limit + _HELD_OUT_BYTES))
    return split_end(documents, min(_HELD_OUT_BYTES, max(1, count_bytes(documents) // 10)))


def read_held_out(read: Callable[..., Iterable[str]], spec: str) -> list[str]:
    """The documents of a held-out text. Several take turns, and the ends of all come last."""
    if len(split_domains(spec)) == 1:
        return list(read(spec, limit=_HELD_OUT_BYTES))
    parts = held_out_parts(read, spec)
    return [*interleaved([first for first, _ in parts]), *interleaved([last for _, last in parts])]


def held_out_parts(read: Callable[..., Iterable[str]], spec: str) -> list[tuple[list[str], list[str]]]:
    """For each of several texts the documents that may be reported on, and those that weights may be moved by."""
    domains = split_domains(spec)
    each = _HELD_OUT_BYTES // len(domains)
    return [beginning_and_end(list(read(domain.spec, limit=each))) for domain in domains]


def split_end(documents: list[str], size: int) -> tuple[list[str], list[str]]:
    """Documents without their last `size` bytes, and these; one may be cut in two, between characters."""
    rest, end = list(documents), list[str]()
    while size > 0 and rest:
        data = rest.pop().encode("utf-8", "replace")
        if len(data) > size:
            rest.append(data[:-size].decode("utf-8", "ignore"))
        end.append(data[-size:].decode("utf-8", "ignore"))
        size -= len(data)
    return rest, end[::-1]


def training_part(spec: str, held_out: str | None) -> str:
    """What of a source is trained on: all but the part held out, or all where another text is held out."""
    return spec if held_out is not None else each_domain(spec, train_of)


def held_out_part(spec: str, held_out: str | None) -> str:
    """What is never trained on."""
    return held_out or each_domain(spec, held_out_of)


def describe_text(spec: str, parameters: int, held_out: str | None = None) -> dict[str, str]:
    """How the text was split, and how much of it is measured on for a source of so many parameters, for the report."""
    if held_out is not None:
        held = shown_source(held_out)
    elif spec == "stdlib":
        held = "files of the library chosen by name"
    else:
        held = "the last tenth, 200 kB at most; of rows, every twentieth"
    measured = (
        f"measured on its first {measured_bytes(parameters) >> 10} KiB, or half; trainings are watched on the rest"
    )
    return {"source": shown_source(spec), "held_out": f"{held}; {measured}"}
