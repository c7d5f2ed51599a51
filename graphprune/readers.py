"""Readers of text documents: plain files, JSON lines, parquet and data sets, each lazy and with one-line errors."""

import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from graphprune.errors import DataError

SEPARATOR = "<|endoftext|>"  # what large plain-text corpora put between their documents


def read_plain(path: Path, limit: int | None = None) -> Iterator[str]:
    """Yield the documents in the first `limit` bytes of a UTF-8 file: one, or those between `<|endoftext|>` marks."""
    data = read_bytes(path, limit)
    if b"\0" in data:
        raise DataError(f"{path} is a binary file; pass UTF-8 text, .jsonl or .parquet")
    try:
        # A cut may split a character: the decoder keeps what is incomplete at the end to itself.
        text = codecs.getincrementaldecoder("utf-8")().decode(data, final=limit is None or len(data) < limit)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error
    return iter(text.split(SEPARATOR))


def read_bytes(path: Path, limit: int | None) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(-1 if limit is None else limit)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def read_jsonl(path: Path, field: str) -> Iterator[str]:
    """Yield `field` of each line of a JSON lines file; blank lines and null texts are passed over."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield from text_of(parse_row(line, f"line {number} of {path}"), field, f"line {number} of {path}")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def parse_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is not a JSON object; each line must be one, with the text in a field")
    return row


def text_of(row: dict[str, Any], field: str, where: str) -> Iterable[str]:
    """The text of a row, or nothing where it is null. Raises DataError that lists the fields where it is missing."""
    if field not in row:
        raise DataError(f"{where} has no field {field!r}; it has {', '.join(map(str, row)) or 'none'}")
    text = row[field]
    if text is not None and not isinstance(text, str):
        raise DataError(f"field {field!r} in {where} holds {type(text).__name__}, not text")
    return () if text is None else (text,)


def read_parquet(path: Path, field: str) -> Iterator[str]:
    """Yield one column of a parquet file, a few rows at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            text_of(dict.fromkeys(file.schema_arrow.names), field, str(path))
            for batch in file.iter_batches(batch_size=256, columns=[field]):
                for text in batch.column(0).to_pylist():
                    yield from text_of({field: text}, field, str(path))
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"cannot read {path} as parquet: {str(error).splitlines()[0]}") from error


def read_dataset(spec: str, field: str) -> Iterator[str]:
    """Stream a data set: `name`, `name:config` or `name:config:split` (split `train` unless given)."""
    import datasets

    name, config, split = (*spec.split(":"), "", "")[:3]
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
        for row in rows:
            yield from text_of(row, field, f"the data set {spec}")
    except DataError:
        raise
    except Exception as error:  # the library raises dozens of kinds, for what is one thing to a user
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{spec!r} is no file, and as a data set it cannot be read: {line[:300]}") from error
