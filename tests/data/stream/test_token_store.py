"""Tokens in memory and in files: the same, in as few bytes as they need, whole or not at all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from graphprune.data.conversations import Encoded
from graphprune.data.stream.token_store import collect, element_type, key_of, store
from graphprune.errors import DataError
from tests.data.test_tokens import word_tokenizer, write

PARTS = [([3, 70, 5], [True, False, True]), ([], []), ([9], [True])]


def encoded(parts: Any = PARTS) -> Iterator[Encoded]:
    for ids, learned in parts:
        yield numpy.array(ids, dtype=numpy.int64), numpy.array(learned, dtype=numpy.bool_)


def refused() -> Iterator[Encoded]:
    pytest.fail("tokens that are there are not made again")
    yield from ()


@pytest.mark.parametrize(
    ("vocabulary", "kind"), [(1, "uint16"), (65536, "uint16"), (65537, "int32"), (200_000, "int32"), (None, "int32")]
)
def test_a_token_takes_the_bytes_that_the_largest_needs(vocabulary: int | None, kind: str, tmp_path: Path) -> None:
    largest = (vocabulary or 1 << 20) - 1
    assert numpy.dtype(element_type(vocabulary)).name == kind
    parts = [([0, largest], [True, True])]
    for found in (collect(encoded(parts), vocabulary), store(encoded(parts), vocabulary, tmp_path, "a")):
        assert found.ids.dtype.name == kind
        assert found.ids.tolist() == [0, largest]


def test_files_hold_what_memory_holds_and_are_made_once(tmp_path: Path) -> None:
    memory = collect(encoded(), 100)
    assert (memory.ids.tolist(), memory.learned.tolist()) == ([3, 70, 5, 9], [True, False, True, True])
    first = store(encoded(), 100, tmp_path / "deep" / "cache", "key")
    again = store(refused(), 100, tmp_path / "deep" / "cache", "key")
    for found in (first, again):
        assert isinstance(found.ids, numpy.memmap)
        assert numpy.array_equal(found.ids, memory.ids)
        assert numpy.array_equal(found.learned, memory.learned)
    names = sorted(path.name for path in (tmp_path / "deep" / "cache").iterdir())
    assert names == ["learned-key.bool", "tokens-key.uint16"]


def test_another_key_and_half_of_a_pair_are_made_anew(tmp_path: Path) -> None:
    store(encoded(), 100, tmp_path, "one")
    assert store(encoded([([8], [False])]), 100, tmp_path, "two").ids.tolist() == [8]
    (tmp_path / "learned-one.bool").unlink()
    assert store(encoded([([7], [True])]), 100, tmp_path, "one").ids.tolist() == [7]


def test_no_tokens_at_all_are_an_empty_text(tmp_path: Path) -> None:
    for found in (collect(encoded([]), 100), store(encoded([]), 100, tmp_path, "none")):
        assert (found.ids.shape, found.ids.dtype, found.learned.dtype) == ((0,), numpy.uint16, numpy.bool_)


def test_a_text_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    def breaking() -> Iterator[Encoded]:
        yield from encoded()
        raise DataError("line 7 is no JSON")

    with pytest.raises(DataError, match="line 7"):
        store(breaking(), 100, tmp_path, "key")
    assert list(tmp_path.iterdir()) == []
    assert store(encoded(), 100, tmp_path, "key").ids.tolist() == [3, 70, 5, 9]


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot keep tokens in .*file/in: Not a directory; make room or name another"):
        store(encoded(), 100, tmp_path / "file" / "in", "key")


def test_the_key_changes_with_all_that_the_tokens_depend_on(tmp_path: Path) -> None:
    spec, tokenizer = write(tmp_path / "a.txt", "w1 w2"), word_tokenizer()
    key = key_of(tokenizer, spec, {"field": "text"})
    assert key == key_of(word_tokenizer(), spec, {"field": "text"})
    others = [
        key_of(tokenizer, spec, {"field": "body"}),
        key_of(tokenizer, f"{spec}#train", {"field": "text"}),
        key_of(word_tokenizer(eos_token="</s>"), spec, {"field": "text"}),
    ]
    tokenizer.chat_template = "{{ messages }}"
    others.append(key_of(tokenizer, spec, {"field": "text"}))
    write(tmp_path / "a.txt", "w1 w2 w3")
    others += [key_of(word_tokenizer(), part, {"field": "text"}) for part in (spec, f"{spec}#train")]
    assert len({key, *others}) == 7
    folder = key_of(word_tokenizer(), str(tmp_path), {})
    write(tmp_path / "b.txt", "w9")
    assert folder != key_of(word_tokenizer(), str(tmp_path), {}), "a folder is all of its files"
