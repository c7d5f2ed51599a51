"""Windows: which parts of which documents a model is calibrated on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphprune.data.tokenizer_files import encoding
from graphprune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Beginnings alone see too little of what texts go on with; without any, what models do first is not seen.
_BEGINNINGS = 0.25


@dataclass(frozen=True, eq=False)
class Documents:
    """Tokenised documents, apart from each other: int64 [tokens] each, behind `first` where texts begin with a token.

    `end` is what separates them where they are packed into one row and have no first token.
    """

    rows: tuple[Tensor, ...]
    first: int | None = None
    end: int | None = None

    @property
    def tokens(self) -> int:
        return sum(map(len, self.rows))

    @property
    def largest(self) -> int:
        """The largest token; 0 where there is none."""
        return max((int(row.max()) for row in self.rows if len(row)), default=0)


def first_token(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token that a text begins with: what the tokenizer puts there, or what is known to stand between documents."""
    first, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if bos is not None and len(first) > len(plain) and first[0] == bos:
        return int(bos)
    return int(bos) if bos is not None and bos == tokenizer.eos_token_id else None


def tokenise(tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]) -> Documents:
    """The documents as tokens, each behind the first token where the tokenizer has one."""
    with encoding():
        found = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)[
            "input_ids"
        ]
        first = first_token(tokenizer)
    begin = [] if first is None else [first]
    rows = tuple(torch.tensor([*begin, *ids], dtype=torch.long) for ids in found)
    return Documents(rows, first, tokenizer.eos_token_id)


def draw_windows(documents: Documents, samples: int, length: int, seed: int, stage: int = 0) -> Tensor:
    """Draw `samples` windows of `length` tokens: [samples, length], the same for the same seed and stage.

    A window lies within a document. Of those that are long enough a quarter of the windows are beginnings, behind the
    first token where there is one, and the others lie anywhere, in proportion to lengths. Shorter ones are packed, in
    random order, into rows that they begin behind their own first token. Both kinds have their share of all tokens.
    Raises DataError where all documents together are shorter than one window.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + stage)
    long = [row for row in documents.rows if len(row) >= length]
    packed = pack([row for row in documents.rows if 0 < len(row) < length], documents, length, generator)
    whole = sum(map(len, long))
    if not long and not len(packed):
        raise DataError(f"the text holds {documents.tokens} tokens, fewer than one window of {length}; give more text")
    count = round(samples * packed.numel() / (packed.numel() + whole))
    rows = [choose(packed, count, generator)] if count else []
    rows += [within(long, samples - count, length, generator)] if count < samples else []
    windows = torch.cat(rows)
    return windows[torch.randperm(samples, generator=generator)]


def pack(rows: Sequence[Tensor], documents: Documents, length: int, generator: torch.Generator) -> Tensor:
    """Short documents one behind the other, cut into rows: [rows, length]; what is left over is dropped."""
    separator = torch.tensor([documents.end] if documents.first is None and documents.end is not None else [])
    order = torch.randperm(len(rows), generator=generator).tolist()
    stream = torch.cat([part for i in order for part in (rows[i], separator.long())] or [torch.zeros(0).long()])
    return stream[: len(stream) // length * length].reshape(-1, length)


def choose(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many rows, each once before any is taken again."""
    picked = [torch.randperm(len(rows), generator=generator) for _ in range(-(-count // len(rows)))]
    return rows[torch.cat(picked)[:count]]


def within(rows: Sequence[Tensor], count: int, length: int, generator: torch.Generator) -> Tensor:
    """So many windows within documents: some are beginnings, the others lie at places spread over all of them."""
    order = torch.randperm(len(rows), generator=generator).tolist()
    found = [rows[i][:length] for i in order[: round(count * _BEGINNINGS)]]
    rest = count - len(found)
    room = torch.tensor([len(row) - length + 1 for row in rows])  # places where a window can begin
    places = (torch.arange(rest) + torch.rand(rest, generator=generator, dtype=torch.float64)) / max(rest, 1)
    bounds = room.cumsum(0)
    for place in (places * int(bounds[-1])).long().clamp_(max=int(bounds[-1]) - 1):
        row = int(torch.searchsorted(bounds, place, right=True))
        start = int(place) - int(bounds[row] - room[row])
        found.append(rows[row][start : start + length])
    return torch.stack(found)
