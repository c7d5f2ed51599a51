"""Training data: an endless sequence of packed rows that any position can be asked for, shuffled anew each epoch."""

import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphprune.data.conversations import Encoded, LossOn
from graphprune.data.stream.token_store import Tokens, collect, key_of, store
from graphprune.data.stream.tokenising import encode_source, first_tokens
from graphprune.errors import DataError, UsageError
from graphprune.progress import Progress, no_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_LOSS = -100  # the label that torch's cross entropy passes over
_HASHED = 1 << 24  # elements at a time


@final
@dataclass(frozen=True, eq=False)
class Stream:
    """Rows of `length` tokens, numbered from 0 without an end; the same number is the same row in every process.

    Documents are cut into rows without padding; nothing is lost but the tail. With `bos` each row starts with that
    token. `kept` are the packed rows [rows of an epoch] that have a label to learn; each epoch goes through all of them
    in an order of its own.
    """

    tokens: Tokens
    length: int
    seed: int
    bos: int | None
    kept: NDArray[numpy.int64]

    @property
    def rows_per_epoch(self) -> int:
        return len(self.kept)

    @property
    def tokens_per_epoch(self) -> int:
        return len(self.kept) * self.length

    @property
    def fingerprint(self) -> str:
        """A hash of every token and of what is learned of them, to tell whether a run goes on with the same data."""
        digest = hashlib.sha256(str((self.length, self.seed, self.bos, str(self.tokens.ids.dtype))).encode())
        for array in (self.tokens.ids, self.tokens.learned):
            for start in range(0, len(array), _HASHED):
                digest.update(array[start : start + _HASHED].tobytes())
        return digest.hexdigest()[:16]

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Token ids and labels of the rows from number `start` on: int64 [count, length] each.

        A label is the token at its own place, not the next, or -100 where none is to be learned.
        """
        places = [divmod(number, len(self.kept)) for number in range(start, start + count)]
        order = [int(shuffled(len(self.kept), self.seed, epoch)[place]) for epoch, place in places]
        chosen = self.kept[numpy.array(order, dtype=numpy.int64)]
        width = self.length - (self.bos is not None)
        index = chosen[:, None] * width + numpy.arange(width)
        ids = torch.from_numpy(self.tokens.ids[index].astype(numpy.int64))
        labels = ids.masked_fill(torch.from_numpy(~self.tokens.learned[index]), NO_LOSS)
        if self.bos is None:
            return ids, labels
        pad = torch.nn.functional.pad
        return pad(ids, (1, 0), value=self.bos), pad(labels, (1, 0), value=NO_LOSS)


@functools.lru_cache(maxsize=4)
def shuffled(rows: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch: a permutation of the rows, int64 [rows]."""
    mixed = numpy.random.SeedSequence([seed, epoch]).generate_state(1, numpy.uint64)[0]
    return torch.randperm(rows, generator=torch.Generator().manual_seed(int(mixed) >> 1))


def open_stream(
    spec: str,
    tokenizer: "PreTrainedTokenizerBase",
    length: int,
    seed: int,
    *,
    field: str = "text",
    loss_on: LossOn = "all",
    vocabulary: int | None = None,
    bos: bool = False,
    batch: int = 1,
    limit_bytes: int | None = None,
    limit_tokens: int | None = None,
    folder: Path | None = None,
    progress: Progress = no_progress,
) -> Stream:
    """Read, tokenise and pack a source: `spec` and `field` as `read_texts` takes them, or rows of conversations.

    With `loss_on="assistant"` only what the assistant says in a conversation is learned. `bos` starts each row with the
    tokenizer's first token, where it has one. Reading ends after `limit_bytes` of text or `limit_tokens`. Tokens are
    kept in memory, or in files of `folder`, where they are found again. Raises DataError where the data are fewer than
    `batch` rows, do not belong to a model with this `vocabulary`, or cannot be read.
    """
    if length < 2 or seed < 0:
        raise UsageError(f"rows need 2 tokens or more and a seed of 0 or more, not {length} and {seed}")
    first = tokenizer.bos_token_id if bos else None
    check_token(first or 0, vocabulary, "the tokenizer")
    encoded = first_tokens(encode_source(tokenizer, spec, field, loss_on, limit_bytes), limit_tokens)
    checked = watch(encoded, vocabulary, spec, limit_tokens, progress)
    if folder is None:
        tokens = collect(checked, vocabulary)
    else:
        options = {"field": field, "loss_on": loss_on, "bytes": limit_bytes, "tokens": limit_tokens}
        tokens = store(checked, vocabulary, folder, key_of(tokenizer, spec, {**options, "vocabulary": vocabulary}))
    return pack(tokens, length, seed, first, batch, spec)


def watch(
    encoded: Iterable[Encoded], vocabulary: int | None, spec: str, limit: int | None, progress: Progress
) -> Iterator[Encoded]:
    """Pass tokens on, with progress. Raises DataError at the first that the model does not know."""
    done = 0
    for ids, learned in encoded:
        check_token(int(ids.max(initial=0)), vocabulary, spec)
        done += len(ids)
        progress("tokenising", done, 0 if limit is None else max(done, limit))
        yield ids, learned
    progress("tokenising", done, done)


def check_token(token: int, vocabulary: int | None, where: str) -> None:
    if vocabulary is not None and token >= vocabulary:
        raise DataError(
            f"token {token} of {where} is outside the vocabulary of {vocabulary}; use the model's tokenizer"
        )


def pack(tokens: Tokens, length: int, seed: int, bos: int | None, batch: int, spec: str) -> Stream:
    """Cut tokens into rows and leave out those in which nothing is learned."""
    width = length - (bos is not None)
    count = len(tokens.ids) // width
    if count == 0:
        raise DataError(
            f"{spec} holds {len(tokens.ids)} tokens, fewer than one row of {length}; give more text or shorter rows"
        )
    # The first token of a row is never predicted, so a label there teaches nothing.
    learned = tokens.learned[: count * width].reshape(count, width)[:, int(bos is None) :]
    kept = numpy.flatnonzero(learned.any(axis=1))
    if len(kept) == 0:
        raise DataError(
            f"no token of {spec} is said by an assistant; look at its roles, or take the loss on all tokens"
        )
    if len(kept) < batch:
        raise DataError(
            f"{spec} holds {len(kept)} rows of {length} tokens, fewer than one batch of {batch}; "
            "give more text, shorter rows or a smaller batch"
        )
    return Stream(tokens, length, seed, bos, kept.astype(numpy.int64))
