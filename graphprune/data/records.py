"""Records: what the fields of a row say - a text, a conversation, or an instruction and its answer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from graphprune.data.readers import Row
from graphprune.errors import DataError

Message = Mapping[str, object]
Conversation = tuple[Message, ...]
Render: TypeAlias = Callable[[Conversation], str]

FIELDS = ("messages", "conversations")
# What is asked in some fields, and what is answered in another, by the names that data sets give them.
_ANSWERS = (
    (("instruction", "input"), "output"),
    (("instruction", "input"), "response"),
    (("instruction", "context"), "response"),
    (("prompt",), "completion"),
    (("prompt",), "response"),
    (("question",), "answer"),
)
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
_PLAIN_ROLES = ("system", "user", "assistant", "tool", "developer")
_SHOWN = 8


def conversation_of(row: Row, field: str) -> Conversation | None:
    """The conversation that a row holds: empty where it is null, None where it has none.

    It is a list of messages with `role` and `content`, or `from` and `value`, in `field`, `messages` or
    `conversations`; or it is made of an instruction and its answer, such as `instruction`, `input` and `output`, or
    `prompt` and `completion`. Raises DataError for messages that cannot be read.
    """
    name = conversation_field(row, field)
    if name is not None:
        messages = row.fields[name]
        return tuple(read_message(message, row.where) for message in messages) if messages else ()
    return answered(row)


def conversation_field(row: Row, field: str) -> str | None:
    """The field of a row that holds its conversation: a list, or null where it has none."""
    names = [name for name in (field, *FIELDS) if name in row.fields]
    return next((name for name in names if row.fields[name] is None or isinstance(row.fields[name], list)), None)


def is_conversation(row: Row, field: str) -> bool:
    """Say whether a row is read as a conversation: what was asked for is one, or is missing beside one."""
    if field in row.fields:
        return field in FIELDS or isinstance(row.fields[field], list)
    return conversation_field(row, field) is not None or answer_field(row) is not None


def answer_field(row: Row) -> tuple[tuple[str, ...], str] | None:
    """The fields of what is asked, the first of them there, and the field of the answer."""
    return next((pair for pair in _ANSWERS if pair[0][0] in row.fields and pair[1] in row.fields), None)


def answered(row: Row) -> Conversation | None:
    """An instruction and its answer as a conversation of two; None where a row has no such fields."""
    found = answer_field(row)
    if found is None:
        return None
    asked, answer = found
    parts = [each for name in asked for each in said(row, name, "user")]
    return (*merged(parts), *said(row, answer, "assistant"))


def said(row: Row, name: str, role: str) -> Sequence[Message]:
    """What a field says as messages: its text, or the messages that it holds; nothing where it is null or empty."""
    value = row.fields.get(name)
    if isinstance(value, list):
        return [read_message(message, row.where) for message in value]
    if value is not None and not isinstance(value, str):
        raise DataError(f"field {name!r} in {row.where} holds {type(value).__name__}, not text")
    return [{"role": role, "content": value}] if value else []


def merged(messages: Sequence[Message]) -> Iterator[Message]:
    """Texts of the user one after another are one message; what holds messages of its own stays as it is."""
    plain = all(message.keys() == {"role", "content"} and message["role"] == "user" for message in messages)
    if plain and messages:
        yield {"role": "user", "content": "\n\n".join(str(message["content"]) for message in messages)}
    else:
        yield from messages


def read_message(message: object, where: str) -> Message:
    """One message with `role` and `content`; ShareGPT's names are translated, every other key is kept."""
    if isinstance(message, dict) and isinstance(message.get("role"), str):
        return message
    if not isinstance(message, dict) or not isinstance(message.get("from"), str) or "value" not in message:
        raise DataError(f"a message in {where} has neither role and content nor from and value; rename its keys")
    role = _ROLES.get(message["from"], message["from"])
    if role not in _PLAIN_ROLES:
        known = ", ".join((*_PLAIN_ROLES, *_ROLES))
        raise DataError(f"a message in {where} is from {message['from'][:40]!r}, which is none of {known}; rename it")
    return {"role": role, "content": message["value"]}


def joined(messages: Conversation) -> str:
    """What is said in a conversation, one after another: how it is read where no chat template renders it."""
    return "\n\n".join(text for text in map(content_of, messages) if text)


def content_of(message: Message) -> str:
    """The text of a message, that of its parts where it has several; empty where it says none, as a call of a tool."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
    return "" if content is None else str(content)


def text_of(row: Row, field: str, render: Render = joined) -> Iterator[str]:
    """The text of a row, or nothing where it is null: that of its field, or of the conversation that it holds.

    Raises DataError that names the fields where there is neither.
    """
    messages = conversation_of(row, field) if is_conversation(row, field) else None
    if messages is not None:
        yield from (whole(render(messages)),) if messages else ()
        return
    if field not in row.fields:
        raise DataError(f"{row.where} has no field {field!r}; {describe(row)}; name the one that holds the text")
    text = row.fields[field]
    if text is not None and not isinstance(text, str):
        raise DataError(f"field {field!r} in {row.where} holds {type(text).__name__}, not text")
    yield from () if text is None else (whole(text),)


def whole(text: object) -> str:
    """A text without halves of characters, which JSON can write and no tokenizer reads."""
    return str(text).encode("utf-8", "replace").decode()


def describe(row: Row) -> str:
    """The fields of a row, the first of them where they are many."""
    names = [str(name)[:40] for name in row.fields]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"it has {', '.join(names[:_SHOWN]) or 'no fields'}{more}"
