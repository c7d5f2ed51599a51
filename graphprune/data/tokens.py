"""Tokens: how text becomes tokens, and which windows are drawn for calibration and evaluation."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphprune.data.conversations import renderer
from graphprune.data.sources import _BYTES_PER_TOKEN, _VARIETY, read_texts
from graphprune.data.tokenizer_files import encoding, require_tokenizer
from graphprune.data.windows import Documents, draw_windows, tokenise
from graphprune.errors import DataError, UsageError, first_line, foreign
from graphprune.ir.contract import fitting_length, vocabulary_size
from graphprune.ir.graph import Graph

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LONGEST_TOKEN = 64  # bytes, on the average of a text


def load_tokenizer(folder: Path, trusted: bool = False) -> "PreTrainedTokenizerBase":
    """Load the transformers tokenizer of a model folder without a network; code that it brings runs where `trusted`.

    Raises DataError where there is none.
    """
    require_tokenizer(folder)
    from transformers import AutoTokenizer

    with foreign(lambda error: DataError(tokenizer_failure(folder, error))):
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
        found("a", verbose=False)  # some faults of its files show where it is first used
        return found


def tokenizer_failure(folder: Path, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"the tokenizer in {folder} brings its own code, which was not run; read it, then pass --trust-remote-code "
            "where a command has it, or save a tokenizer that needs no code"
        )
    return f"the tokenizer in {folder} cannot be loaded: {first_line(error)}"


def encode(tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]) -> Tensor:
    """Tokenise documents and join them with the end token where the tokenizer has one: int64 [tokens].

    Raises DataError for a text that the tokenizer cannot encode.
    """
    with encoding():
        rows = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    stream = [token for row in rows for token in (row if end is None else (*row, end))]
    return torch.tensor(stream if end is None else stream[:-1], dtype=torch.long)


def read_tokens(
    tokenizer: "PreTrainedTokenizerBase",
    spec: str,
    field: str = "text",
    limit: int | None = None,
    most: int | None = None,
) -> tuple[Tensor, int]:
    """Read and tokenise a text as one stream: int64 [tokens], and the number of bytes that it had in UTF-8.

    The text ends after `limit` bytes, the stream after `most` tokens; their bytes are then those of what they stand
    for.
    """
    enough = None if most is None else _LONGEST_TOKEN * most
    limit = min((each for each in (limit, enough) if each is not None), default=None)
    texts = list(read_texts(spec, field, limit, renderer(tokenizer)))
    tokens, size = encode(tokenizer, texts), sum(len(text.encode("utf-8", "replace")) for text in texts)
    if most is None or len(tokens) <= most:
        return tokens, size
    said = str(tokenizer.decode(tokens[:most], clean_up_tokenization_spaces=False))
    return tokens[:most], len(said.encode("utf-8", "replace"))


def tokens_beyond(tokenizer: "PreTrainedTokenizerBase", rows: int | None) -> list[str]:
    """The tokens that a tokenizer knows and a model with so many rows does not, in the order of their ids."""
    if rows is None or len(tokenizer) <= rows:
        return []
    found = sorted((id, text) for text, id in tokenizer.get_vocab().items() if id >= rows)
    return [text for _, text in found]


def check_documents(documents: Documents, vocabulary: int | None, length: int, spec: str) -> None:
    """`check_tokens` for documents."""
    check_count(documents.tokens, length, spec)
    check_largest(documents.largest, vocabulary, spec)


def check_tokens(tokens: Tensor, vocabulary: int | None, length: int, spec: str) -> None:
    """Raise DataError where the text is shorter than one window or the tokenizer does not belong to the model."""
    check_count(len(tokens), length, spec)
    check_largest(int(tokens.max()) if len(tokens) else 0, vocabulary, spec)


def check_count(tokens: int, length: int, spec: str) -> None:
    if tokens < length:
        raise DataError(f"{spec} holds {tokens} tokens, fewer than one window of {length}; give more text")


def check_largest(largest: int, vocabulary: int | None, spec: str) -> None:
    if vocabulary is not None and largest >= vocabulary:
        raise DataError(
            f"token {largest} of {spec} is outside the vocabulary of {vocabulary}: the tokenizer has tokens that the "
            "model has no rows for; use the model's tokenizer"
        )


def fitting_windows(graph: Graph, samples: int, length: int) -> tuple[int, int]:
    """How many windows of how many tokens: those asked for, or as many tokens in windows of the model's context."""
    fit = fitting_length(graph, length)
    return math.ceil(samples * length / fit), fit


def split_rows(windows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Consecutive batches of at most `size` rows."""
    return tuple(windows[start : start + size] for start in range(0, len(windows), size))


@dataclass(frozen=True)
class Calibration:
    """What text the methods see: `samples` windows of `length` tokens, or as many tokens in windows that a model takes.

    Windows lie within documents, which begin with the tokenizer's first token where it has one, see `draw_windows`.
    """

    spec: str = "stdlib"
    samples: int = 128
    length: int = 128
    seed: int = 0
    field: str = "text"

    def __post_init__(self) -> None:
        if self.samples < 1 or self.length < 2:
            raise UsageError(f"calibration needs 1 sample of 2 tokens or more, not {self.samples} of {self.length}")

    def batches(self, tokenizer: "PreTrainedTokenizerBase", graph: Graph, size: int = 8) -> tuple[Tensor, ...]:
        """The windows as batches of `size` rows: int64 [rows, length]. Reads no more text than it needs."""
        samples, length = fitting_windows(graph, self.samples, self.length)
        limit = _VARIETY * _BYTES_PER_TOKEN * samples * length
        documents = tokenise(tokenizer, read_texts(self.spec, self.field, limit, renderer(tokenizer)))
        check_documents(documents, vocabulary_size(graph), length, self.spec)
        return split_rows(draw_windows(documents, samples, length, self.seed), size)
