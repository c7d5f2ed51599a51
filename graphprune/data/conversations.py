"""Conversations: read from rows, rendered by the tokenizer's chat template, with the tokens that the assistant says."""

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

import numpy
from numpy.typing import NDArray

from graphprune.data.records import FIELDS, Conversation, Message, Render, conversation_of, describe, joined, whole
from graphprune.data.sources import open_rows
from graphprune.data.tokenizer_files import encoding
from graphprune.errors import DataError, first_line, foreign

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

LossOn = Literal["all", "assistant"]
# Token ids [n], and for each whether the assistant says it: bool [n].
Encoded = tuple[NDArray[numpy.int64], NDArray[numpy.bool_]]

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


def read_conversations(spec: str, field: str) -> Iterator[Conversation]:
    """Yield the conversation of each row of a file or a data set, as `records.conversation_of` finds it.

    Rows where it is null or empty are passed over. Raises DataError, which names the fields, where there is none.
    """
    for row in open_rows(spec):
        messages = conversation_of(row, field)
        if messages is None:
            raise DataError(f"{row.where} has no conversation in {', '.join((field, *FIELDS))}; {describe(row)}")
        if messages:
            yield messages


def renderer(tokenizer: "PreTrainedTokenizerBase") -> Render:
    """How a tokenizer makes a text of a conversation: by its chat template, or what is said alone without one."""
    return partial(render, tokenizer) if tokenizer.chat_template else joined


def check_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise DataError where a tokenizer cannot render conversations or cannot tell where their tokens are."""
    if not tokenizer.chat_template:
        raise DataError(
            "the tokenizer has no chat template, so conversations cannot be rendered; "
            "put chat_template.jinja into the model's folder, or train on a field of plain text"
        )
    if not tokenizer.is_fast:
        raise DataError("the tokenizer is not a fast one and does not say where its tokens are; give a tokenizer.json")


def encode_conversation(tokenizer: "PreTrainedTokenizerBase", messages: Conversation, loss_on: LossOn) -> Encoded:
    """The tokens of a conversation, and which carry the loss: all, or those that the assistant says.

    A token is the assistant's when any of its characters is. The template says where these are by its
    `{% generation %}` marks; where it has none, they are what a message adds to its generation prompt, and DataError
    is raised where a rendering does not begin with the rendering of the messages before it.
    """
    if loss_on == "all":
        ids = numpy.asarray(tokenize(tokenizer, render(tokenizer, messages))["input_ids"], dtype=numpy.int64)
        return ids, numpy.ones(len(ids), dtype=numpy.bool_)
    if _MARKS.search(tokenizer.get_chat_template()):
        return encode_marked(tokenizer, messages)
    text = render(tokenizer, messages)
    found = tokenize(tokenizer, text, places=True)
    places = numpy.asarray(found["offset_mapping"], dtype=numpy.int64).reshape(-1, 2)
    said = numpy.zeros(len(places), dtype=numpy.bool_)
    for start, end in assistant_spans(tokenizer, messages, text):
        said |= (numpy.maximum(places[:, 0], start) < numpy.minimum(places[:, 1], end)).astype(numpy.bool_)
    return numpy.asarray(found["input_ids"], dtype=numpy.int64), said


def encode_marked(tokenizer: "PreTrainedTokenizerBase", messages: Conversation) -> Encoded:
    """The tokens of a conversation and the assistant's, by the marks in the template."""
    with guarded(messages):
        rendered = tokenizer.apply_chat_template(
            as_dicts(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
    found = cast("BatchEncoding", rendered)
    said = numpy.asarray(found["assistant_masks"], dtype=numpy.bool_)
    return numpy.asarray(found["input_ids"], dtype=numpy.int64), said


def tokenize(tokenizer: "PreTrainedTokenizerBase", text: str, places: bool = False) -> "BatchEncoding":
    """Tokens of a rendered conversation, in which the template has put every special token; `places` adds where each
    stands."""
    with encoding():
        found: BatchEncoding = tokenizer(
            text, add_special_tokens=False, return_attention_mask=False, verbose=False, return_offsets_mapping=places
        )
    return found


def render(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], prompt: bool = False) -> str:
    """The conversation as text, with `prompt` up to where the assistant begins."""
    with guarded(messages):
        return whole(tokenizer.apply_chat_template(as_dicts(messages), tokenize=False, add_generation_prompt=prompt))


def as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as transformers declares them; templates take what else they hold, such as calls of tools."""
    return cast("list[dict[str, str]]", list(messages))


def guarded(messages: Sequence[Message]) -> AbstractContextManager[None]:
    """Apply the chat template within. Raises DataError with the template's own words where it refuses."""
    roles = ", ".join(str(message["role"]) for message in messages[:6]) or "no message"
    why = f"the chat template cannot render a conversation of {roles}"
    return foreign(lambda error: DataError(f"{why}: {first_line(error)}"))


def assistant_spans(
    tokenizer: "PreTrainedTokenizerBase", messages: Conversation, text: str
) -> Iterator[tuple[int, int]]:
    """The characters of a rendered conversation that each assistant's message adds to its generation prompt."""
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = render(tokenizer, messages[:index], prompt=True)
            whole = render(tokenizer, messages[: index + 1])
            if not whole.startswith(prompt) or not text.startswith(whole):
                raise DataError(
                    f"the chat template does not show where message {index + 1} begins and ends, for it changes what "
                    "stands before; put {% generation %} marks into the template, or take the loss on all tokens"
                )
            yield len(prompt), len(whole)
