"""Tokenizer files: by which names a folder is known to hold a tokenizer, and what is said where one fails."""

from contextlib import AbstractContextManager
from pathlib import Path

from graphprune.errors import DataError, first_line, foreign

_NAMES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")


def has_tokenizer(folder: Path) -> bool:
    """Say whether a folder holds the files of a tokenizer."""
    return any((folder / name).is_file() for name in _NAMES)


def require_tokenizer(folder: Path) -> None:
    """Raise DataError, with what works without one, where there is none."""
    if not has_tokenizer(folder):
        raise DataError(
            f"{folder} has no tokenizer; copy tokenizer.json and tokenizer_config.json into it; without one, inspect, "
            "explain, verify, bench and compile --importance magnitude work"
        )


def encoding() -> AbstractContextManager[None]:
    """Have a tokenizer encode; what it raises, such as for a word that it has no token for, becomes a DataError."""
    return foreign(lambda error: DataError(f"the tokenizer cannot encode the text: {first_line(error)[:200]}"))
