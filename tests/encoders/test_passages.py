"""Passages: what is cut out of documents, and batches of them without padding."""

from pathlib import Path

import pytest
import torch

from graphprune.data.tokens import load_tokenizer
from graphprune.encoders.passages import (
    PLACE,
    Passages,
    check_passages,
    draw_passages,
    make_batches,
    split_passages,
    tokenise,
)
from graphprune.errors import DataError
from tests.support.tiny_encoder import SENTENCES, write_tokenizer

INPUTS = ("input_ids", "attention_mask")


def test_lines_are_taken_whole_and_sentence_by_sentence_in_turns() -> None:
    documents = ["One line. Of two.\n\n  And a second! Of three? Yes.\n", "又一行。两句。\n再来。又。"]
    assert list(split_passages(documents)) == [
        "One line. Of two.", "And a second!", "Of three?", "Yes.", "又一行。两句。", "再来。", "又。",
    ]  # fmt: skip


def test_batches_hold_every_passage_once_and_no_padding(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    passages = tokenise(load_tokenizer(tmp_path), [*SENTENCES, *SENTENCES], 8)
    assert max(map(len, passages.rows)) == 8
    assert all(int(row[0]) == 2 and int(row[-1]) == 3 for row in passages.rows)  # special tokens at both ends, cut too
    batches = make_batches(passages, INPUTS)
    assert all(bool(batch["attention_mask"].all()) for batch in batches)
    assert [len(batch["input_ids"][0]) for batch in batches] == sorted({len(row) for row in passages.rows})
    for batch in batches:
        for place, ids in zip(batch[PLACE].tolist(), batch["input_ids"], strict=True):
            assert torch.equal(ids, passages.rows[place])
    assert sorted(place for batch in batches for place in batch[PLACE].tolist()) == list(range(12))


def test_a_draw_is_of_its_seed_and_stage_and_takes_none_twice() -> None:
    passages = Passages(tuple(torch.full((1 + n % 3,), n) for n in range(50)))
    drawn = draw_passages(passages, 30, 1)
    assert 30 <= drawn.tokens < 33
    assert len({int(row[0]) for row in drawn.rows}) == len(drawn.rows)
    same, other = draw_passages(passages, 30, 1), draw_passages(passages, 30, 1, stage=1)
    assert all(map(torch.equal, drawn.rows, same.rows))
    assert [int(row[0]) for row in drawn.rows] != [int(row[0]) for row in other.rows]
    assert draw_passages(passages, 10**6, 0).tokens == passages.tokens


def test_too_little_text_and_strange_tokens_are_told() -> None:
    with pytest.raises(DataError, match=r"my.txt holds 1 passages; give 2 or more"):
        check_passages(Passages((torch.tensor([1]),)), None, "my.txt")
    with pytest.raises(DataError, match=r"token 7 of my.txt is outside the vocabulary of 7"):
        check_passages(Passages((torch.tensor([1]), torch.tensor([7]))), 7, "my.txt")
