"""Journal: what is written is not found again, also after a line was cut short."""

import json
from pathlib import Path

from graphprune.pruning.search.journal import Journal


def test_values_are_kept(tmp_path: Path) -> None:
    path, asked = tmp_path / "run" / "search.jsonl", list[int]()

    def find(value: int) -> float:
        asked.append(value)
        return value / 3

    first = Journal(path)
    assert [first.value({"genes": [n]}, lambda n=n: find(n)) for n in (1, 2, 1)] == [1 / 3, 2 / 3, 1 / 3]  # type: ignore[misc]
    with path.open("a") as file:
        file.write('{"genes": [3], "val')
    again = Journal(path)
    assert again.value({"genes": [2]}, lambda: find(2)) == 2 / 3
    assert again.value({"genes": [3]}, lambda: find(3)) == 1.0
    assert asked == [1, 2, 3]
    assert [json.loads(line)["genes"] for line in path.read_text().splitlines()] == [[1], [2], [3]]


def test_without_a_file_nothing_is_kept() -> None:
    journal = Journal(None)
    assert journal.value({"a": 1}, lambda: 2.0) == journal.value({"a": 1}, lambda: 3.0) == 2.0
