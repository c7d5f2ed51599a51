"""Rows for training: what they hold, that a position is always the same row, how tokens are kept, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
import pytest
import torch

from graphprune.data.stream.packing import NO_LOSS, Stream, open_stream
from graphprune.data.tokens import encode
from graphprune.errors import DataError, GraphpruneError, UsageError
from tests.data.test_tokens import WORDS, word_tokenizer, write

TEXTS = [" ".join(WORDS[3 + i : 20 + 2 * i]) for i in range(20)]


def jsonl(folder: Path, texts: list[str] = TEXTS) -> str:
    return write(folder / "a.jsonl", "\n".join(json.dumps({"text": text}) for text in texts))


def epoch(stream: Stream, number: int = 0) -> torch.Tensor:
    return stream.rows(number * stream.rows_per_epoch, stream.rows_per_epoch)[0]


def in_order(rows: torch.Tensor) -> list[list[int]]:
    """The rows whatever order they came in, each as often as it is there."""
    return sorted(rows.tolist())


def test_rows_are_the_joined_documents_cut_without_padding(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(eos_token="</s>")
    stream = open_stream(jsonl(tmp_path), tokenizer, 7, 0, vocabulary=64)
    tokens = encode(tokenizer, TEXTS)
    assert torch.equal(torch.from_numpy(stream.tokens.ids.astype(numpy.int64)), tokens)
    count = len(tokens) // 7
    assert stream.tokens_per_epoch == 7 * count
    ids, labels = stream.rows(0, count)
    assert ids.dtype == labels.dtype == torch.int64
    assert torch.equal(ids, labels)
    assert in_order(ids) == in_order(tokens[: 7 * count].reshape(count, 7))


def test_a_position_is_the_same_row_every_time(tmp_path: Path) -> None:
    path, tokenizer = jsonl(tmp_path), word_tokenizer(eos_token="</s>")
    stream = open_stream(path, tokenizer, 7, 3)
    total = 3 * stream.rows_per_epoch
    whole = stream.rows(0, total)[0]
    again = open_stream(path, tokenizer, 7, 3)
    parts = [again.rows(start, min(5, total - start))[0] for start in range(0, total, 5)]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(again.rows(total - 1, 1)[0][0], whole[-1])
    assert again.rows(4, 0)[0].shape == (0, 7)


def test_every_epoch_has_every_row_in_another_order(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(eos_token="</s>")
    stream = open_stream(jsonl(tmp_path), tokenizer, 7, 3)
    first, second = epoch(stream), epoch(stream, 1)
    other = epoch(open_stream(jsonl(tmp_path), tokenizer, 7, 4))
    assert in_order(first) == in_order(second) == in_order(other)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_fingerprint_tells_other_data(tmp_path: Path) -> None:
    path, tokenizer = jsonl(tmp_path), word_tokenizer(eos_token="</s>")
    first = open_stream(path, tokenizer, 7, 3).fingerprint
    assert first == open_stream(path, tokenizer, 7, 3, folder=tmp_path / "tokens").fingerprint
    changed = write(tmp_path / "b.jsonl", Path(path).read_text().replace("w5", "w6", 1))
    others = [(path, 8, 3), (path, 7, 4), (changed, 7, 3)]
    assert len({first, *(open_stream(path, tokenizer, n, seed).fingerprint for path, n, seed in others)}) == 4


def test_rows_may_start_with_the_first_token(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(bos_token="<s>", eos_token="</s>")
    stream = open_stream(jsonl(tmp_path), tokenizer, 7, 0, bos=True)
    ids, labels = stream.rows(0, stream.rows_per_epoch)
    assert bool((ids[:, 0] == 0).all())
    assert bool((labels[:, 0] == NO_LOSS).all())
    assert torch.equal(ids[:, 1:], labels[:, 1:])
    tokens = encode(tokenizer, TEXTS)
    assert in_order(ids[:, 1:]) == in_order(tokens[: len(tokens) // 6 * 6].reshape(-1, 6))
    plain = open_stream(jsonl(tmp_path), word_tokenizer(), 7, 0, bos=True)
    assert not bool((plain.rows(0, plain.rows_per_epoch)[0] == 0).any())


def test_long_documents_are_tokenised_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.data.stream.tokenising._BATCH", 40)
    texts = ["\n".join(TEXTS), "w1", "w2 w3", "w9" * 50, "w4"]
    stream = open_stream(jsonl(tmp_path, texts), tokenizer := word_tokenizer(eos_token="</s>"), 4, 0)
    parts = [texts[0], "w1", "w2 w3", "w9" * 20 + " " + "w9" * 20 + " " + "w9" * 10, "w4"]
    assert stream.tokens.ids.tolist() == encode(tokenizer, parts).tolist()


def test_tokens_take_as_few_bytes_as_they_need(tmp_path: Path) -> None:
    path, tokenizer = jsonl(tmp_path), word_tokenizer()
    assert open_stream(path, tokenizer, 7, 0, vocabulary=1 << 16).tokens.ids.dtype == numpy.uint16
    assert open_stream(path, tokenizer, 7, 0, vocabulary=(1 << 16) + 1).tokens.ids.dtype == numpy.int32
    assert open_stream(path, tokenizer, 7, 0).tokens.ids.dtype == numpy.int32


def test_tokens_in_a_folder_are_found_again_until_the_text_changes(tmp_path: Path) -> None:
    path, tokenizer, folder = jsonl(tmp_path), word_tokenizer(eos_token="</s>"), tmp_path / "tokens"
    seen: list[tuple[str, int, int]] = []
    options: Any = {"folder": folder, "progress": lambda *state: seen.append(state)}
    stream = open_stream(path, tokenizer, 7, 0, **options)
    assert isinstance(stream.tokens.ids, numpy.memmap)
    assert torch.equal(epoch(stream), epoch(open_stream(path, tokenizer, 7, 0)))
    count = len(stream.tokens.ids)
    assert seen == [("tokenising", count, 0), ("tokenising", count, count)], "it ends at its end"
    assert torch.equal(epoch(stream, 2), epoch(open_stream(path, tokenizer, 7, 0, **options), 2))
    assert len(seen) == 2
    jsonl(tmp_path, TEXTS[:-1])
    changed = open_stream(path, tokenizer, 7, 0, **options)
    assert changed.tokens.ids.tolist() == encode(tokenizer, TEXTS[:-1]).tolist()
    assert not list(folder.glob("*.partial"))


def test_a_failed_read_leaves_no_tokens_behind(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "w1 w2"}\nbroken')
    with pytest.raises(DataError, match="line 2"):
        open_stream(path, word_tokenizer(), 2, 0, folder=tmp_path / "tokens")
    assert not list((tmp_path / "tokens").iterdir())


def test_a_limit_ends_the_text(tmp_path: Path) -> None:
    path, tokenizer = jsonl(tmp_path), word_tokenizer(eos_token="</s>")
    tokens = encode(tokenizer, TEXTS)
    limited = open_stream(path, tokenizer, 7, 0, limit_tokens=70)
    assert limited.tokens.ids.tolist() == tokens[:70].tolist()
    short = open_stream(path, tokenizer, 7, 0, limit_bytes=len(TEXTS[0]))
    assert short.tokens.ids.tolist() == encode(tokenizer, TEXTS[:1]).tolist()


def test_every_kind_of_source_gives_the_same_rows(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(eos_token="</s>")
    rows = [{"n": 1, "text": text} for text in TEXTS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", "\n".join(map(json.dumps, rows)))
    sources = [jsonl(tmp_path), write(tmp_path / "a.txt", "<|endoftext|>".join(TEXTS))]
    sources += [str(tmp_path / "a.parquet"), str(tmp_path / "set")]
    first, *others = [epoch(open_stream(source, tokenizer, 7, 5)) for source in sources]
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("", {}, "holds no text"),
        ('{"text": ""}', {}, "holds no text"),
        ('{"text": "w1 w2"}', {}, "2 tokens, fewer than one row of 7; give more text or shorter rows"),
        ('{"text": "w1 w2"}', {"length": 2, "batch": 2}, "1 rows of 2 tokens, fewer than one batch of 2; give more"),
        ('{"text": "w1 w2"}', {"vocabulary": 5}, "token 5 of .* is outside the vocabulary of 5; use the model's"),
        ('{"body": "w1", "title": ""}', {}, "no field 'text'; it has body, title"),
        (
            '{"text": "w1 w2"}',
            {"loss_on": "assistant"},
            "no conversation in text, messages, conversations; it has text",
        ),
    ],
)
def test_unusable_data_are_refused(tmp_path: Path, data: str, options: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.jsonl", data)
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(DataError, match=message) as caught:
        open_stream(path, tokenizer, **{"length": 7, "seed": 0, **options})
    assert "\n" not in str(caught.value)


def test_rows_of_no_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rows need 2 tokens"):
        open_stream(jsonl(tmp_path), word_tokenizer(), 1, 0)
    with pytest.raises(GraphpruneError, match="the tokenizer is outside the vocabulary"):
        open_stream(jsonl(tmp_path), word_tokenizer(bos_token="w60"), 7, 0, bos=True, vocabulary=60)
