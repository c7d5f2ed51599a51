"""Passages: texts of the lengths that people embed, cut out of documents, and batches of them without any padding."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphprune.data.tokenizer_files import encoding
from graphprune.encoders.embeddings import Named
from graphprune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACE = "place"  # which of the passages a row is
_SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])")
_ROWS, _TOKENS = 32, 4096  # of a batch, at most


@dataclass(frozen=True, eq=False)
class Passages:
    """Tokenised passages: int64 [tokens] each, special tokens at their ends."""

    rows: tuple[Tensor, ...]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.rows))


def split_passages(documents: Iterable[str]) -> Iterator[str]:
    """The lines of documents in turns: one as it is, the next sentence by sentence. Empty ones are left out."""
    lines = (line.strip() for document in documents for line in document.splitlines() if line.strip())
    for number, line in enumerate(lines):
        yield from (line,) if number % 2 == 0 else filter(None, map(str.strip, _SENTENCE.split(line)))


def tokenise(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], longest: int) -> Passages:
    """The texts as the model reads them, cut at so many tokens. Raises DataError for what cannot be encoded."""
    if not texts:
        return Passages(())
    with encoding():
        found = tokenizer(list(texts), truncation=True, max_length=longest, verbose=False)["input_ids"]
    return Passages(tuple(torch.tensor(ids, dtype=torch.long) for ids in found))


def draw_passages(passages: Passages, tokens: int, seed: int, stage: int = 0) -> Passages:
    """Random passages of about so many tokens together, none twice; all of them where they have fewer."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + stage)
    chosen: list[Tensor] = []
    left = tokens
    for place in torch.randperm(len(passages.rows), generator=generator).tolist():
        if left <= 0:
            break
        chosen.append(passages.rows[place])
        left -= len(chosen[-1])
    return Passages(tuple(chosen))


def make_batches(passages: Passages, inputs: Sequence[str]) -> tuple[Named, ...]:
    """Batches of passages of one length each, by rising length: nothing is padded. `inputs` are those of the graph.

    Each also says which passages its rows are, as `place`.
    """
    by_length: dict[int, list[int]] = {}
    for place, row in enumerate(passages.rows):
        by_length.setdefault(len(row), []).append(place)
    return tuple(
        make_batch(passages, places[start : start + rows], inputs)
        for length, places in sorted(by_length.items())
        if length
        for rows in [max(1, min(_ROWS, _TOKENS // length))]
        for start in range(0, len(places), rows)
    )


def make_batch(passages: Passages, places: Sequence[int], inputs: Sequence[str]) -> Named:
    ids = torch.stack([passages.rows[place] for place in places])
    known: Mapping[str, Tensor] = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    return {**{name: known[name] for name in inputs}, PLACE: torch.tensor(places)}


def check_passages(passages: Passages, vocabulary: int | None, spec: str) -> None:
    """Raise DataError where there are too few to compare, or the tokenizer does not belong to the model."""
    if len(passages.rows) < 2:
        raise DataError(f"{spec} holds {len(passages.rows)} passages; give 2 or more, a line or a sentence each")
    largest = max(int(row.max()) for row in passages.rows if len(row))
    if vocabulary is not None and largest >= vocabulary:
        raise DataError(
            f"token {largest} of {spec} is outside the vocabulary of {vocabulary}: the tokenizer has tokens that the "
            "model has no rows for; use the model's tokenizer"
        )
