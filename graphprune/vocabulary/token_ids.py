"""Token ids outside the tokenizer: those that configurations name, under the numbers that they have after a cut."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from graphprune.json_data import JsonObject

Config = TypeVar("Config")

_SIZE = "vocab_size"
_ENDINGS = ("_token_id", "_token_ids", "_token_index")
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids", "sequence_bias")
_PLACED = ("forced_decoder_ids",)  # pairs of a place and an id


@dataclass(frozen=True)
class Renumbering:
    """The ids that are kept of `rows`, in their old order; an id's place among them is its new number."""

    kept: tuple[int, ...]
    rows: int

    @property
    def new(self) -> Mapping[int, int]:
        """The new number by the old one."""
        return {old: new for new, old in enumerate(self.kept)}


def renumber_data(data: JsonObject, numbers: Renumbering) -> dict[str, object]:
    """A configuration as JSON has it, its ids and `vocab_size` renumbered, parts in it too."""
    new, result = numbers.new, dict[str, object]()
    for key, value in data.items():
        if isinstance(value, dict) and not is_id(key):
            result[key] = renumber_data(value, numbers)
        elif key == _SIZE:
            result[key] = len(numbers.kept) if value == numbers.rows else value
        else:
            result[key] = renumber_field(key, value, new, numbers.rows)
    return result


def renumber_object(config: Config, numbers: Renumbering) -> Config:
    """A copy of a configuration object of transformers, renumbered like `renumber_data`; None stays None."""
    result, new = copy.deepcopy(config), numbers.new
    for part in parts_of(result):
        for key, value in list(vars(part).items()):
            if is_id(key):
                setattr(part, key, renumber_field(key, value, new, numbers.rows))
        if getattr(part, _SIZE, None) == numbers.rows:
            setattr(part, _SIZE, len(numbers.kept))
    return result


def parts_of(config: object) -> Iterator[object]:
    """A configuration and those within it."""
    if config is not None:
        yield config
        for value in list(vars(config).values()):
            if hasattr(value, "to_dict") and hasattr(value, "__dict__"):
                yield from parts_of(value)


def is_id(key: str) -> bool:
    return key.endswith(_ENDINGS) or key in _LISTS or key in _PLACED


def renumber_field(key: str, value: object, new: Mapping[int, int], rows: int) -> object:
    """The value of a field: renumbered where it holds ids. Entries of lists that name an id that went are left out."""
    if not is_id(key):
        return value
    if key in _PLACED and isinstance(value, (list, tuple)):
        return [[place, renumber(id, new, rows)] for place, id in value]
    found = renumber(value, new, rows)
    return None if isinstance(found, Gone) else found


class Gone:
    """Stands for an id that is no more."""


def renumber(value: object, new: Mapping[int, int], rows: int, inside: bool = False) -> object:
    """An id, or ids in lists; `Gone` where it is no more. What is no row of the model, such as -1, stays as it is.

    A list loses the ids that went; a list in a list, the tokens of a word, goes with any of them.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return new.get(value, Gone()) if 0 <= value < rows else value
    if isinstance(value, (list, tuple)):
        found = [renumber(item, new, rows, True) for item in value]
        if inside and any(isinstance(item, Gone) for item in found):
            return Gone()
        return type(value)(item for item in found if not isinstance(item, Gone))
    if isinstance(value, dict):  # the tokens of a word: how much it is favoured
        entries = ((renumber(word, new, rows, True), much) for word, much in value.items())
        return {word: much for word, much in entries if not isinstance(word, Gone)}
    return value


def named_ids(*configs: object) -> frozenset[int]:
    """The ids that configurations give a meaning to, such as the end of a text; what is merely avoided may go."""
    found: set[int] = set()
    for config in configs:
        for part in parts_of(config):
            for key, value in vars(part).items():
                if key.endswith(_ENDINGS):
                    found.update(integers(value))
                elif key in _PLACED:
                    found.update(id for _, id in value or ())
    return frozenset(found)


def integers(value: object) -> Iterator[int]:
    """The numbers in a value, lists in it too."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from integers(item)
