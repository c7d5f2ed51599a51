"""Documents as tokens, a batch at a time: what a text of any length passes through on its way to be packed."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy
from numpy.typing import NDArray

from graphprune.data.conversations import (
    Encoded,
    LossOn,
    check_template,
    encode_conversation,
    read_conversations,
)
from graphprune.data.records import Conversation, content_of, is_conversation
from graphprune.data.sources import has_rows, open_rows, read_texts
from graphprune.data.stream.domains import split_domains
from graphprune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Characters: a tokenizer needs about a hundred bytes for each token of a batch.
_BATCH = 1 << 20


def encode_source(
    tokenizer: "PreTrainedTokenizerBase", spec: str, field: str, loss_on: LossOn, limit_bytes: int | None = None
) -> Iterator[Encoded]:
    """Yield the tokens of a source in order, and whether each carries the loss, as arrays of any length.

    Documents are joined with the end token, as `tokens.encode` joins them; conversations are joined so where they do
    not end with it. Sources as `read_texts` takes them; rows without `field` may hold conversations.
    Several texts come one after the other. Raises DataError where there is nothing to read.
    """
    domains = split_domains(spec)
    if len(domains) > 1:
        for domain in domains:
            share = None if limit_bytes is None else max(1, round(limit_bytes * domain.weight))
            yield from encode_source(tokenizer, domain.spec, field, loss_on, share)
        return
    if has_rows(spec):
        first = next(open_rows(spec), None)
        if first is None:
            raise DataError(f"{spec} holds no text")
        if loss_on == "assistant" or is_conversation(first, field):
            check_template(tokenizer)
            yield from encode_conversations(tokenizer, read_conversations(spec, field), loss_on, limit_bytes)
            return
    if loss_on == "assistant":
        raise DataError(f"{spec} is plain text without an assistant; give rows with messages, or take the loss on all")
    yield from encode_texts(tokenizer, read_texts(spec, field, limit_bytes))


def encode_texts(tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]) -> Iterator[Encoded]:
    """Tokenise documents in batches, an end token between two of them."""
    end, begun = tokenizer.eos_token_id, False
    for batch in batches(parts(texts)):
        rows = tokenizer(
            [text for text, _ in batch], add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        arrays: list[NDArray[numpy.int64]] = []
        for row, (_, starts) in zip(rows["input_ids"], batch, strict=True):
            if starts and begun and end is not None:
                arrays.append(numpy.array([end]))
            arrays.append(numpy.asarray(row, dtype=numpy.int64))
            begun = True
        ids = numpy.concatenate(arrays)
        yield ids, numpy.ones(len(ids), dtype=numpy.bool_)


def parts(texts: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """The documents, long ones in parts, and whether a part starts a document."""
    for text in texts:
        start = 0
        while start < len(text):
            end = cut_point(text, start)
            yield text[start:end], start == 0
            start = end


def cut_point(text: str, start: int) -> int:
    """Where a part that begins at `start` ends: after a line, else before a space, which belongs to its word."""
    end = start + _BATCH
    if end >= len(text):
        return len(text)
    line, space = text.rfind("\n", start, end) + 1, text.rfind(" ", start + 1, end)
    return line if line > start else space if space > start else end


def batches(items: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    """Consecutive parts, together no longer than a batch or one alone."""
    held: list[tuple[str, bool]] = []
    size = 0
    for item in items:
        if held and size + len(item[0]) > _BATCH:
            yield held
            held, size = [], 0
        held.append(item)
        size += len(item[0])
    if held:
        yield held


def encode_conversations(
    tokenizer: "PreTrainedTokenizerBase",
    conversations: Iterable[Conversation],
    loss_on: LossOn,
    limit_bytes: int | None,
) -> Iterator[Encoded]:
    """Tokenise whole conversations up to a number of bytes; an end token that is put between two carries no
    assistant's loss."""
    end, left, last = tokenizer.eos_token_id, limit_bytes, None
    for messages in conversations:
        if left is not None and left <= 0:
            return
        ids, said = encode_conversation(tokenizer, messages, loss_on)
        if last is not None and end is not None and last != end:
            ids, said = numpy.insert(ids, 0, end), numpy.insert(said, 0, loss_on == "all")
        if len(ids):
            yield ids, said
            last = int(ids[-1])
        left = None if left is None else left - content_bytes(messages)


def content_bytes(messages: Conversation) -> int:
    """The bytes of what is said in a conversation."""
    return sum(len(content_of(message).encode("utf-8", "replace")) for message in messages)


def first_tokens(encoded: Iterable[Encoded], limit: int | None) -> Iterator[Encoded]:
    """End after `limit` tokens."""
    left = limit
    for ids, said in encoded:
        yield ids[:left], said[:left]
        left = None if left is None else left - len(ids)
        if left is not None and left <= 0:
            return
