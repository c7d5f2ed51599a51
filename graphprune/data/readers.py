"""Readers of documents: plain files, JSON lines, parquet and data sets, each lazy and with one-line errors."""

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphprune.errors import DataError, first_line, foreign

_CONTINUATION = bytes(range(0x80, 0xC0))  # the bytes of a character in UTF-8 after its first
SEPARATOR = "<|endoftext|>"  # what large plain-text corpora put between their documents


@dataclass(frozen=True)
class Row:
    """One row of a file or data set, and where it is, for messages."""

    where: str
    fields: Mapping[str, Any]


def read_plain(path: Path, limit: int | None = None, start: int = 0) -> Iterator[str]:
    """Yield the documents in `limit` bytes from `start` of a UTF-8 file: one, or those between `<|endoftext|>`s."""
    data = read_bytes(path, limit, start)
    if b"\0" in data:
        raise DataError(f"{path} is a binary file; pass UTF-8 text, .jsonl or .parquet")
    try:
        # A cut may split a character: the decoder keeps what is incomplete at the end to itself.
        text = codecs.getincrementaldecoder("utf-8")().decode(data, final=limit is None or len(data) < limit)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error
    return iter(text.split(SEPARATOR))


def read_bytes(path: Path, limit: int | None, start: int = 0) -> bytes:
    """Some bytes of a file; what is left of a character before `start` is passed over."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(-1 if limit is None else limit)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    return data.lstrip(_CONTINUATION) if start else data


def read_jsonl(path: Path) -> Iterator[Row]:
    """Yield each line of a JSON lines file; blank lines are passed over."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield parse_row(line, f"line {number} of {path}")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def parse_row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is not a JSON object; each line must be one, with the text in a field")
    return Row(where, row)


def text_of(row: Row, field: str) -> Iterable[str]:
    """The text of a row, or nothing where it is null. Raises DataError that lists the fields where it is missing."""
    if field not in row.fields:
        raise DataError(f"{row.where} has no field {field!r}; it has {', '.join(map(str, row.fields)) or 'none'}")
    text = row.fields[field]
    if text is not None and not isinstance(text, str):
        raise DataError(f"field {field!r} in {row.where} holds {type(text).__name__}, not text")
    return () if text is None else (text,)


def read_parquet(path: Path, field: str | None = None) -> Iterator[Row]:
    """Yield the rows of a parquet file, a few at a time: of one column where the file has it, of all otherwise."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = [field] if field in file.schema_arrow.names else None
            for batch in file.iter_batches(batch_size=256, columns=columns):
                yield from (Row(str(path), row) for row in batch.to_pylist())
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"cannot read {path} as parquet: {first_line(error)}") from error


def read_dataset(spec: str) -> Iterator[Row]:
    """Stream a data set: `name`, `name:config` or `name:config:split` (split `train` unless given)."""
    import datasets

    name, config, split = (*spec.split(":"), "", "")[:3]
    why = f"{spec!r} is no file, and as a data set it cannot be read"
    with foreign(lambda error: DataError(f"{why}: {first_line(error)[:300]}")):
        rows = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
        yield from (Row(f"the data set {spec}", row) for row in rows)
