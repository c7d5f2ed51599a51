"""Windows lie within documents, begin behind the first token where they can, and are new in every stage."""

import pytest
import torch
from torch import Tensor

from graphprune.data.windows import Documents, draw_windows, first_token, tokenise
from graphprune.errors import DataError
from tests.data.test_tokens import word_tokenizer

FIRST, END = 0, 1


def numbered(lengths: list[int], first: int | None = FIRST) -> Documents:
    """Documents whose tokens are all different: document d has the tokens 1000 (d + 1), 1000 (d + 1) + 1, ..."""
    begin = [] if first is None else [first]
    rows = [torch.tensor([*begin, *range(1000 * (d + 1), 1000 * (d + 1) + n)]) for d, n in enumerate(lengths)]
    return Documents(tuple(rows), first, END)


def documents_in(row: Tensor) -> set[int]:
    return {int(token) // 1000 for token in row if token > END}


def test_no_window_crosses_from_one_document_into_another() -> None:
    windows = draw_windows(numbered([40] * 30), 50, 16, seed=3)
    assert windows.shape == (50, 16)
    for row in windows:
        assert len(documents_in(row)) == 1
        inner = row[1:] if row[0] == FIRST else row
        assert torch.equal(inner, inner[0] + torch.arange(len(inner)))


def test_a_quarter_of_the_windows_begin_documents_and_no_document_is_begun_twice_for_that() -> None:
    windows = draw_windows(numbered([400] * 30), 80, 16, seed=0)
    begun = windows[windows[:, 0] == FIRST]
    assert 20 <= len(begun) <= 24
    assert len({int(row[1]) for row in begun}) >= 20
    assert len({document for row in windows for document in documents_in(row)}) == 30


def test_one_long_document_is_covered() -> None:
    windows = draw_windows(numbered([1000], first=None), 50, 16, seed=0)
    starts = windows[:, 0].sort().values
    assert int(starts[0]) == 1000
    assert int(starts.diff().max()) < 60
    assert len(set(starts.tolist())) >= 49


def test_short_documents_are_packed_behind_their_own_first_token() -> None:
    windows = draw_windows(numbered([5] * 40), 9, 16, seed=0)
    stream = [row.tolist() for row in windows]
    for row in stream:
        for place, token in enumerate(row):
            if token > END and place and row[place - 1] > END:
                assert token == row[place - 1] + 1
    assert sum(row.count(FIRST) for row in stream) >= 9 * 2
    without = draw_windows(numbered([5] * 40, first=None), 9, 16, seed=0)
    assert int((without == END).sum()) >= 9 * 2, "without a first token the end token stands between them"


def test_long_and_short_documents_have_their_share_of_the_tokens() -> None:
    windows = draw_windows(numbered([100] * 10 + [9] * 100), 40, 20, seed=0)
    packed = [row for row in windows if len(documents_in(row)) > 1]
    assert 17 <= len(packed) <= 23


def test_the_same_seed_and_stage_draw_the_same_and_others_draw_others() -> None:
    documents = numbered([40, 300, 7, 9, 5, 60])
    once = draw_windows(documents, 12, 16, seed=5)
    assert torch.equal(once, draw_windows(documents, 12, 16, seed=5, stage=0))
    assert not torch.equal(once, draw_windows(documents, 12, 16, seed=6))
    assert not torch.equal(once, draw_windows(documents, 12, 16, seed=5, stage=1))


def test_a_text_that_is_too_short_is_refused_and_a_small_one_repeats() -> None:
    with pytest.raises(DataError, match="11 tokens, fewer than one window of 16"):
        draw_windows(numbered([10]), 3, 16, seed=0)
    assert draw_windows(numbered([15]), 3, 16, seed=0).shape == (3, 16)
    assert draw_windows(numbered([9, 9]), 3, 16, seed=0).shape == (3, 16)


def test_the_first_token_is_the_one_that_the_tokenizer_puts_or_that_separates() -> None:
    assert first_token(word_tokenizer()) is None
    assert first_token(word_tokenizer(bos_token="<s>", eos_token="</s>")) is None, "it is known and not put"
    assert first_token(word_tokenizer(bos_token="<s>", eos_token="<s>")) == 0
    adding = word_tokenizer(bos_token="<s>", eos_token="</s>", add_bos_token=True)
    assert adding("w1")["input_ids"] == [0, 4]
    assert first_token(adding) == 0
    found = tokenise(adding, ["w1 w2", "w3"])
    assert [row.tolist() for row in found.rows] == [[0, 4, 5], [0, 6]]
    assert (found.tokens, found.largest, found.end) == (5, 6, 1)
