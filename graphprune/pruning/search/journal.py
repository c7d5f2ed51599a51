"""Journal: every candidate that a search has judged, a line each, so that the same search goes on after a stop."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

from graphprune.json_data import JsonObject


@final
class Journal:
    """Lines of JSON in a file: a key and a value, kept as soon as they are known. Without a file nothing is kept.

    `asked` are the keys whose values were wanted here, whoever found them.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known = read_lines(path) if path is not None and path.is_file() else {}
        self.asked = set[str]()

    def knows(self, key: JsonObject) -> bool:
        """Whether the value of a key is written."""
        return json.dumps(key) in self.known

    def value(self, key: JsonObject, find: Callable[[], float]) -> float:
        """The value of a key: what is written, or what is found now."""
        name = json.dumps(key)
        self.asked.add(name)
        if name not in self.known:
            self.known[name] = find()
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**key, "value": self.known[name]}) + "\n")
        return self.known[name]


def read_lines(path: Path) -> dict[str, float]:
    """The values by their keys."""
    found = {}
    for key in whole_lines(path):
        value = key.pop("value")
        found[json.dumps(key)] = float(value)
    return found


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that are whole; a last one that was cut short is taken out of the file."""
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]
