"""The text of a compilation: one part to calibrate on, another, never calibrated on, to measure with."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from graphprune.data.sources import read_texts
from graphprune.data.tokens import check_tokens, encode, load_tokenizer, sample_windows, split_rows
from graphprune.errors import DataError
from graphprune.ir.contract import context_length, vocabulary_size
from graphprune.ir.graph import Graph

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTES_PER_WINDOW_TOKEN = 64  # sixteen times the text that the windows need, at four bytes a token
_HELD_OUT_BYTES = 200_000
_BATCH = 8


@dataclass(frozen=True, eq=False)
class Text:
    """Calibration batches [rows, length], the held-out stream with its number of bytes, and the tokenizer."""

    batches: tuple[Tensor, ...]
    held_out: Tensor
    held_out_bytes: int
    bos: int | None
    tokenizer: "PreTrainedTokenizerBase | None" = None


def prepare_text(graph: Graph, spec: str, samples: int, length: int, seed: int, held_out: str | None = None) -> Text:
    """Read, split and tokenise text for a decoder.

    Without `held_out`, a text of its own, `stdlib` has a split and of any other source the last tenth of what is read
    is held out. Raises DataError where there is not enough.
    """
    if graph.source.files is None:
        raise DataError("the model has no folder with a tokenizer, so text cannot be read; pass batches instead")
    tokenizer = load_tokenizer(graph.source.files)
    length = min(length, context_length(graph) or length)
    train, held = split_text(spec, _BYTES_PER_WINDOW_TOKEN * samples * length, held_out)
    tokens, bos = encode(tokenizer, train), tokenizer.bos_token_id
    check_tokens(tokens, vocabulary_size(graph), length, spec)
    windows = sample_windows(tokens, samples, length, seed)
    stream = encode(tokenizer, held)
    return Text(split_rows(windows, _BATCH), stream, sum(len(text.encode()) for text in held), bos, tokenizer)


def split_text(spec: str, limit: int, held_out: str | None = None) -> tuple[list[str], list[str]]:
    """The text to calibrate on and the text to measure with; no byte is in both where they are one source."""
    if held_out is not None:
        return list(read_texts(spec, limit=limit)), list(read_texts(held_out, limit=_HELD_OUT_BYTES))
    if spec == "stdlib":
        return list(read_texts(spec, limit=limit)), list(read_texts("stdlib:held-out", limit=_HELD_OUT_BYTES))
    data = "".join(f"{text}\n" for text in read_texts(spec, limit=limit + _HELD_OUT_BYTES)).encode()
    size = min(_HELD_OUT_BYTES, max(1, len(data) // 10))
    parts = data[:-size], data[-size:]
    return [parts[0].decode("utf-8", "ignore")], [parts[1].decode("utf-8", "ignore")]


def training_part(spec: str, held_out: str | None) -> str:
    """What of a source is trained on: all but the part held out, or all where another text is held out."""
    return spec if held_out is not None or spec == "stdlib" else f"{spec}#train"


def held_out_part(spec: str, held_out: str | None) -> str:
    """What is never trained on."""
    return held_out or ("stdlib:held-out" if spec == "stdlib" else f"{spec}#held-out")


def describe_text(spec: str, held_out: str | None = None, trained: bool = False) -> dict[str, str]:
    """How the text was split, for the report."""
    if held_out is not None:
        return {"source": spec, "held_out": held_out}
    if trained and spec != "stdlib":
        return {"source": spec, "held_out": "the last tenth, 200 kB at most; of rows, every twentieth"}
    held = "files of the library chosen by name" if spec == "stdlib" else "the last tenth of what was read"
    return {"source": spec, "held_out": held}
