"""Where text is read from, what is refused, and which windows are drawn."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import tokenizers
import torch
import transformers

from graphprune.data.sources import read_texts
from graphprune.data.tokens import Calibration, check_tokens, encode, load_tokenizer, read_tokens
from graphprune.errors import DataError, UsageError
from tests.support.tiny_llama import CONFIG, tiny_graph

WORDS = ["<s>", "</s>", "<unk>", *(f"w{i}" for i in range(CONFIG.vocab_size - 3))]


def word_tokenizer(**special: str) -> Any:
    """A tokenizer of whole words: `w5` is token 8."""
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **special)


def write(path: Path, data: str | bytes) -> str:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def test_text_files_are_one_document_or_split_at_marks(tmp_path: Path) -> None:
    assert list(read_texts(write(tmp_path / "a.txt", "one\r\ntwo ü\n"))) == ["one\r\ntwo ü\n"]
    assert list(read_texts(write(tmp_path / "b", "one\n<|endoftext|>\ntwo<|endoftext|>\n"))) == ["one", "two"]


def test_jsonl_and_parquet_give_the_field(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"body": "one", "n": 1}, {"body": None}, {"body": " "}, {"body": "two"}]
    jsonl = write(tmp_path / "a.jsonl", "\n\n".join(map(json.dumps, rows)))
    pyarrow.parquet.write_table(pyarrow.table({"body": [row["body"] for row in rows]}), tmp_path / "a.parquet")
    assert list(read_texts(jsonl, "body")) == ["one", "two"]
    assert list(read_texts(str(tmp_path / "a.parquet"), "body")) == ["one", "two"]


def test_a_folder_is_a_data_set_with_config_and_split(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", '{"text": "one"}\n{"text": "two"}\n')
    write(tmp_path / "test.jsonl", '{"text": "three"}\n')
    assert list(read_texts(str(tmp_path))) == ["one", "two"]
    assert list(read_texts(f"{tmp_path}::test")) == ["three"]
    with pytest.raises(DataError, match="no field 'body'; it has text"):
        list(read_texts(str(tmp_path), "body"))
    with pytest.raises(DataError, match="data set"):
        list(read_texts(f"{tmp_path}::nosplit"))


def test_the_standard_library_has_two_splits() -> None:
    train, held_out = next(read_texts("stdlib")), next(read_texts("stdlib:held-out"))
    assert train != held_out
    assert "import" in train + held_out


def test_a_limit_counts_bytes_and_splits_no_character(tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl"):
        text = "aü" * 4
        path = write(tmp_path / name, text if name == "a.txt" else json.dumps({"text": text}))
        assert list(read_texts(path, limit=6)) == ["aüaü"]
        assert list(read_texts(path, limit=5)) == ["aüa"]
        assert list(read_texts(path, limit=100)) == [text]


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "' + "x" * 20 + '"}\nnot json')
    assert list(read_texts(path, limit=20)) == ["x" * 20]
    assert list(read_texts(write(tmp_path / "a.txt", b"good\xff"), limit=4)) == ["good"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", "", "holds no text"),
        ("a.txt", " \n", "holds no text"),
        ("a.txt", b"ab\0cd", "binary file"),
        ("a.txt", b"ab\xffcd", r"not UTF-8 text \(byte 2\)"),
        ("a.txt", "ü".encode()[:1], "not UTF-8 text"),
        ("a.jsonl", "", "holds no text"),
        ("a.jsonl", '{"text": "x"}\n{"text', "line 2 of .* is not JSON"),
        ("a.jsonl", "[1]", "not a JSON object"),
        ("a.jsonl", '{"body": "x", "title": "y"}', "no field 'text'; it has body, title"),
        ("a.jsonl", '{"text": 5}', "holds int, not text"),
        ("a.jsonl", b'{"text": "\xff"}', "not UTF-8 text"),
        ("a.parquet", "not parquet", "as parquet"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, name: str, data: str | bytes, message: str) -> None:
    path = write(tmp_path / name, data)
    with pytest.raises(DataError, match=message) as caught:
        list(read_texts(path))
    assert "\n" not in str(caught.value)


def test_parquet_without_the_field_lists_its_columns(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="it has body, n"):
        list(read_texts(str(tmp_path / "a.parquet")))
    with pytest.raises(DataError, match="holds int"):
        list(read_texts(str(tmp_path / "a.parquet"), "n"))


@pytest.mark.parametrize("spec", ["", "/no/such/file", "./data", "nothing.txt", "nothing.parquet"])
def test_a_missing_file_is_not_looked_up_as_a_data_set(spec: str) -> None:
    with pytest.raises(DataError, match="no text file at"):
        list(read_texts(spec))


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no tokenizer"):
        load_tokenizer(tmp_path)
    write(tmp_path / "tokenizer.json", "{}")
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_saved_tokenizer_is_loaded(tmp_path: Path) -> None:
    word_tokenizer(eos_token="</s>").save_pretrained(tmp_path)
    assert encode(load_tokenizer(tmp_path), ["w0 w1", "w2"]).tolist() == [3, 4, 1, 5]


def test_documents_are_joined_with_the_end_token() -> None:
    texts = ["w0 w1", "w2"]
    assert encode(word_tokenizer(eos_token="</s>"), iter(texts)).tolist() == [3, 4, 1, 5]
    assert encode(word_tokenizer(), texts).tolist() == [3, 4, 5]


def test_a_stream_comes_with_its_bytes(tmp_path: Path) -> None:
    tokens, size = read_tokens(word_tokenizer(), write(tmp_path / "a.txt", "w0 ü w1\n"))
    assert tokens.tolist() == [3, 2, 4]
    assert size == 9


def test_calibration_gives_batches_within_the_context(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", " ".join(WORDS[3:] * 5))
    tokenizer = word_tokenizer(bos_token="<s>", eos_token="<s>")
    batches = Calibration(path, samples=5, length=96, seed=1).batches(tokenizer, tiny_graph(), 4)
    assert [tuple(batch.shape) for batch in batches] == [(4, 48), (4, 48), (2, 48)], "as many tokens"
    rows = torch.cat(batches)
    assert int((rows == 0).sum()) == int((rows[:, 0] == 0).sum()) >= 1, "one document begins once"
    plain = Calibration(path, samples=2, length=20).batches(word_tokenizer(), tiny_graph())
    assert plain[0].shape == (2, 20)
    assert bool((plain[0] > 2).all())


def test_calibration_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    short = write(tmp_path / "a.txt", "w0 w1 w2")
    with pytest.raises(DataError, match="3 tokens, fewer than one window of 48"):
        Calibration(short).batches(word_tokenizer(), tiny_graph())
    with pytest.raises(DataError, match="token 64 of here is outside the vocabulary of 64"):
        check_tokens(torch.tensor([3, 64]), 64, 1, "here")
    with pytest.raises(UsageError, match="calibration needs"):
        Calibration(samples=0)


def test_a_tokenizer_with_its_own_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a question; with trust it is the code of the folder that answers."""
    code = "from transformers import PreTrainedTokenizerFast\nclass Own(PreTrainedTokenizerFast):\n    pass\n"
    word_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenization_own.py").write_text(code)
    path = tmp_path / "tokenizer_config.json"
    named = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "tokenization_own.Own"]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **named}))
    with pytest.raises(
        DataError, match="brings its own code, which was not run; read it, then pass --trust-remote-code"
    ):
        load_tokenizer(tmp_path)
    assert capsys.readouterr() == ("", "")
    assert type(load_tokenizer(tmp_path, trusted=True)).__name__ == "Own"
