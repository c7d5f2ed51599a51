"""Conversations: which fields hold them, what the template makes of them, which tokens are the assistant's."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import tokenizers
import transformers

from graphprune.data.conversations import LossOn, encode_conversation, read_conversations
from graphprune.data.stream.packing import NO_LOSS, Stream, open_stream
from graphprune.errors import DataError
from tests.data.test_tokens import word_tokenizer, write

TURNS = [("user", "w1 w2"), ("assistant", "w3 w4"), ("user", "w5"), ("assistant", "w6")]
MESSAGES = [{"role": role, "content": content} for role, content in TURNS]
SHAREGPT = [{"from": {"user": "human", "assistant": "gpt"}[role], "value": content} for role, content in TURNS]

MARKED = (
    "{% for m in messages %}<{{ m['role'] }}> "
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }} <end>{% endgeneration %}"
    "{% else %}{{ m['content'] }} <end>{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
PLAIN = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
# Only the last answer is kept in full, as templates do that drop the reasoning of earlier turns.
CHANGING = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] if loop.last or m['role'] == 'user' else 'w0' }} <end> "
    "{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)
STRICT = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('begin with a user') }}{% endif %}" + PLAIN


def chat_tokenizer(template: str | None = PLAIN, end: str | None = "<stop>") -> Any:
    """Words apart by spaces, so that a test can read the tokens back as text."""
    words = ["<unk>", "<stop>", "<user>", "<assistant>", "<system>", "<end>", *(f"w{i}" for i in range(10))]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    result = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token=end)
    result.chat_template = template
    return result


def said(template: str, messages: Any = MESSAGES, loss_on: LossOn = "assistant") -> tuple[str, str]:
    """The whole conversation as words, and the words that carry the loss."""
    tokenizer = chat_tokenizer(template)
    ids, learned = encode_conversation(tokenizer, tuple(messages), loss_on)
    return tokenizer.decode(ids), " ".join(tokenizer.convert_ids_to_tokens(ids[learned].tolist()))


WHOLE = "<user> w1 w2 <end> <assistant> w3 w4 <end> <user> w5 <end> <assistant> w6 <end>"


@pytest.mark.parametrize("template", [MARKED, PLAIN])
def test_the_assistants_tokens_are_found_with_and_without_marks(template: str) -> None:
    assert said(template) == (WHOLE, "w3 w4 <end> w6 <end>")
    assert said(template, loss_on="all") == (WHOLE, WHOLE)


def test_a_conversation_without_an_assistant_has_nothing_to_learn() -> None:
    assert said(MARKED, MESSAGES[:1]) == said(PLAIN, MESSAGES[:1]) == ("<user> w1 w2 <end>", "")


def test_a_template_that_changes_what_stands_before_is_refused() -> None:
    assert said(CHANGING, MESSAGES[:2])[1] == "w3 w4 <end>"
    with pytest.raises(DataError, match=r"message 2 begins and ends.*generation") as caught:
        said(CHANGING)
    assert "\n" not in str(caught.value)
    assert said(CHANGING, loss_on="all")[0].startswith("<user> w1 w2 <end> <assistant> w0 <end>")


def test_a_template_that_refuses_is_quoted() -> None:
    with pytest.raises(DataError, match="cannot render a conversation of assistant, user: begin with a user"):
        said(STRICT, MESSAGES[1:3])


def rows_of(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    """The same rows as JSON lines, parquet and a data set."""
    (folder / "set").mkdir()
    lines = "\n".join(map(json.dumps, rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "a.parquet")
    write(folder / "set" / "train.jsonl", lines)
    return [write(folder / "a.jsonl", lines), str(folder / "a.parquet"), str(folder / "set")]


@pytest.mark.parametrize(
    ("name", "messages"), [("messages", MESSAGES), ("conversations", SHAREGPT), ("dialog", MESSAGES)]
)
def test_conversations_are_read_from_every_kind_of_rows(tmp_path: Path, name: str, messages: Any) -> None:
    rows = [{"n": 1, name: messages}, {"n": 2, name: None}, {"n": 3, name: messages[:2]}]
    for source in rows_of(tmp_path, rows):
        assert list(read_conversations(source, "dialog")) == [tuple(MESSAGES), tuple(MESSAGES[:2])]


def test_other_keys_of_a_message_are_kept(tmp_path: Path) -> None:
    messages = [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]
    path = write(tmp_path / "a.jsonl", json.dumps({"messages": messages}))
    assert list(read_conversations(path, "text")) == [tuple(messages)]


def stream_of(folder: Path, conversations: list[Any], length: int, tokenizer: Any = None, **options: Any) -> Stream:
    path = write(folder / "a.jsonl", "\n".join(json.dumps({"messages": messages}) for messages in conversations))
    return open_stream(path, tokenizer or chat_tokenizer(), length, 0, **options)


def test_packed_conversations_are_joined_with_the_end_token(tmp_path: Path) -> None:
    stream = stream_of(tmp_path, [MESSAGES, MESSAGES[:2]], 23, loss_on="assistant")
    ids, labels = stream.rows(0, 1)
    assert chat_tokenizer().decode(ids[0]) == f"{WHOLE} <stop> <user> w1 w2 <end> <assistant> w3 w4 <end>"
    learned = chat_tokenizer().decode(labels[0][labels[0] != NO_LOSS])
    assert learned == "w3 w4 <end> w6 <end> w3 w4 <end>"
    assert stream.tokens.learned.tolist().count(True) == 8
    same = stream_of(tmp_path, [MESSAGES, MESSAGES], 23, chat_tokenizer(end="<end>"))
    assert chat_tokenizer().decode(same.tokens.ids) == f"{WHOLE} {WHOLE}"  # it ends with the end token already


def test_rows_in_which_nothing_is_learned_are_left_out(tmp_path: Path) -> None:
    asks = [{"role": "user", "content": "w1 w2 w3 w4 w5 w6 w7 w8"}]
    stream = stream_of(tmp_path, [asks, MESSAGES, asks, asks], 5, loss_on="assistant")
    ids, labels = stream.rows(0, 2 * stream.rows_per_epoch)
    assert bool((labels[:, 1:] != NO_LOSS).any(dim=1).all())
    assert bool(((labels == ids) | (labels == NO_LOSS)).all())
    whole = stream_of(tmp_path, [asks, MESSAGES, asks, asks], 5)
    assert 0 < stream.rows_per_epoch < whole.rows_per_epoch
    assert stream.tokens_per_epoch == 5 * stream.rows_per_epoch


def test_rows_of_text_stay_text_beside_conversations(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps({"text": "w1 w2 w3", "messages": MESSAGES}))
    assert chat_tokenizer().decode(open_stream(path, chat_tokenizer(None), 3, 0).tokens.ids) == "w1 w2 w3"
    assert chat_tokenizer().decode(open_stream(path, chat_tokenizer(), 3, 0, field="messages").tokens.ids) == WHOLE
    learned = open_stream(path, chat_tokenizer(), 3, 0, loss_on="assistant")
    assert chat_tokenizer().decode(learned.tokens.ids) == WHOLE


def test_a_limit_counts_what_is_said(tmp_path: Path) -> None:
    assert len(stream_of(tmp_path, [MESSAGES] * 5, 5, limit_bytes=20).tokens.ids) == 2 * 14 + 1
    assert len(stream_of(tmp_path, [MESSAGES] * 5, 5, limit_tokens=20).tokens.ids) == 20


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"from": "narrator", "value": "w1"}]}, "is from 'narrator', which is none of system, user"),
        ({"messages": ["w1"]}, "line 1 of .* has neither role and content nor from and value"),
        ({"messages": "w1", "id": 4}, "no conversation in text, messages, conversations; it has messages, id"),
        ({"messages": MESSAGES[:1] * 3}, "no token of .* is said by an assistant"),
    ],
)
def test_unusable_conversations_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps(row))
    with pytest.raises(DataError, match=message) as caught:
        open_stream(path, chat_tokenizer(), 5, 0, loss_on="assistant")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no chat template.*chat_template.jinja"):
        stream_of(tmp_path, [MESSAGES], 5, word_tokenizer())
    path = write(tmp_path / "a.txt", "w1 w2 w3")
    with pytest.raises(DataError, match="plain text without an assistant"):
        open_stream(path, chat_tokenizer(), 2, 0, loss_on="assistant")
