"""Long documents are tokenised in parts: nothing is lost, and parts end where words do."""

import pytest

from graphprune.data.stream.tokenising import batches, content_bytes, cut_point, parts

TEXTS = ["one two three four five\nsix seven", "", "x" * 50, "a b\n" * 12, "ends with a space "]


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.data.stream.tokenising._BATCH", 10)


def test_the_parts_of_a_document_are_the_document() -> None:
    found = list(parts(TEXTS))
    assert "".join(text for text, _ in found) == "".join(TEXTS)
    assert sum(starts for _, starts in found) == sum(map(bool, TEXTS))
    assert all(0 < len(text) <= 10 for text, _ in found)


@pytest.mark.parametrize(
    ("text", "end"), [("ab\ncd efghijk", 3), ("abc defg hijkl", 8), ("x" * 30, 10), ("short", 5), (" " + "y" * 30, 10)]
)
def test_a_part_ends_after_a_line_or_before_a_word(text: str, end: int) -> None:
    assert cut_point(text, 0) == end


def test_batches_keep_the_order_and_hold_what_fits() -> None:
    items = [("a" * n, True) for n in (4, 4, 4, 12, 1)]
    found = list(batches(items))
    assert [item for batch in found for item in batch] == items
    assert [len(batch) for batch in found] == [2, 1, 1, 1]


def test_what_is_said_counts_in_bytes() -> None:
    assert content_bytes(({"role": "user", "content": "é"}, {"role": "assistant"})) == 2
