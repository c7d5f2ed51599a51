"""The text of a compilation: one part to calibrate on, another, never calibrated on, to measure with."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from graphprune.data import (
    check_tokens,
    context_length,
    encode,
    load_tokenizer,
    read_texts,
    sample_windows,
    split_rows,
    vocabulary_size,
)
from graphprune.errors import DataError
from graphprune.ir import Graph

_BYTES_PER_WINDOW_TOKEN = 64  # sixteen times the text that the windows need, at four bytes a token
_HELD_OUT_BYTES = 200_000
_BATCH = 8


@dataclass(frozen=True, eq=False)
class Text:
    """Calibration batches [rows, length] and the held-out stream with its number of bytes."""

    batches: tuple[Tensor, ...]
    held_out: Tensor
    held_out_bytes: int
    bos: int | None


def prepare_text(graph: Graph, spec: str, samples: int, length: int, seed: int) -> Text:
    """Read, split and tokenise text for a decoder. `stdlib` has a split of its own; of any other source the last tenth
    of what is read is held out. Raises DataError where there is not enough."""
    if graph.source.folder is None:
        raise DataError("the model has no folder with a tokenizer, so text cannot be read; pass batches instead")
    tokenizer = load_tokenizer(graph.source.folder)
    length = min(length, context_length(graph) or length)
    train, held = split_text(spec, _BYTES_PER_WINDOW_TOKEN * samples * length)
    tokens, bos = encode(tokenizer, train), tokenizer.bos_token_id
    check_tokens(tokens, vocabulary_size(graph), length, spec)
    windows = sample_windows(tokens, samples, length, seed)
    stream = encode(tokenizer, held)
    return Text(split_rows(windows, _BATCH), stream, sum(len(text.encode()) for text in held), bos)


def split_text(spec: str, limit: int) -> tuple[list[str], list[str]]:
    """The two parts of a source; no byte is in both."""
    if spec == "stdlib":
        return list(read_texts(spec, limit=limit)), list(read_texts("stdlib:held-out", limit=_HELD_OUT_BYTES))
    data = "".join(f"{text}\n" for text in read_texts(spec, limit=limit + _HELD_OUT_BYTES)).encode()
    size = min(_HELD_OUT_BYTES, max(1, len(data) // 10))
    parts = data[:-size], data[-size:]
    return [parts[0].decode("utf-8", "ignore")], [parts[1].decode("utf-8", "ignore")]


def describe_text(spec: str) -> dict[str, Any]:
    """How the text was split, for the report."""
    held = "files of the library chosen by name" if spec == "stdlib" else "the last tenth of what was read"
    return {"source": spec, "held_out": held}
