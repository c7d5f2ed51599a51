"""Readers of documents: plain files, JSON lines, parquet and data sets, each lazy and with one-line errors."""

import codecs
import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphprune.errors import DataError, first_line, foreign
from graphprune.json_data import Json, parse_json, require_shallow

_CONTINUATION = bytes(range(0x80, 0xC0))  # the bytes of a character in UTF-8 after its first
_LONGEST_CELL = (1 << 31) - 1
SEPARATOR = "<|endoftext|>"  # what large plain-text corpora put between their documents


@dataclass(frozen=True)
class Row:
    """One row of a file or data set, and where it is, for messages."""

    where: str
    fields: Mapping[str, Any]


def read_plain(path: Path, limit: int | None = None, start: int = 0) -> Iterator[str]:
    """Yield the documents in `limit` bytes from `start` of a UTF-8 file: one, or those between `<|endoftext|>`s.

    Line ends around that separator belong to it: no document begins or ends with them.
    """
    data = read_bytes(path, limit, start)
    if b"\0" in data:
        raise DataError(f"{path} is a binary file; pass UTF-8 text, .jsonl or .parquet")
    try:
        # A cut may split a character: the decoder keeps what is incomplete at the end to itself.
        text = codecs.getincrementaldecoder("utf-8")().decode(data, final=limit is None or len(data) < limit)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error
    found = text.split(SEPARATOR)
    return iter(found if len(found) == 1 else [document.strip("\r\n") for document in found])


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
        row = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is not a JSON object; each line must be one, with the text in a field")
    return Row(where, row)


def read_json(path: Path) -> Iterator[Row]:
    """Yield the records of a JSON file: those of its list, of the one list in its object, or one a line."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        yield from (Row(f"record {n} of {path}", record(each, path)) for n, each in enumerate(elements(text, path), 1))
        return
    try:
        whole = parse_json(text)
    except ValueError:  # one object a line is called .json too
        yield from (
            parse_row(line, f"line {n} of {path}") for n, line in enumerate(text.split("\n"), 1) if line.strip()
        )
        return
    lists = [each for each in whole.values() if is_records(each)] if isinstance(whole, dict) else []
    rows = lists[0] if len(lists) == 1 else [whole] if isinstance(whole, dict) and not lists else None
    if not isinstance(rows, list):
        raise DataError(f"{path} holds no list of records; give a list of objects, or one object a line")
    yield from (Row(f"record {number} of {path}", record(each, path)) for number, each in enumerate(rows, 1))


def read_text(path: Path) -> str:
    """The whole of a UTF-8 file. Raises DataError."""
    try:
        return read_bytes(path, None).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error


def is_records(value: Json) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def record(value: Json, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{path} is a list that holds a {type(value).__name__}; each of its records is an object")
    return value


def elements(text: str, path: Path) -> Iterator[Json]:
    """Yield the values of the list that a text is, each read when it is asked for."""
    decoder, place = json.JSONDecoder(), text.index("[") + 1
    blank = re.compile(r"[\s,]*")
    try:
        while (place := blank.match(text, place).end()) < len(text) and text[place] != "]":  # type: ignore[union-attr]
            value, place = decoder.raw_decode(text, place)
            require_shallow(value)
            yield value
        if place >= len(text):
            raise ValueError("its list does not end")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {first_line(error)}") from error


def read_table(path: Path) -> Iterator[Row]:
    """Yield the rows of a .csv or .tsv file, whose first line names the columns."""
    csv.field_size_limit(_LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            for row in table:
                if None in row:
                    raise DataError(f"line {table.line_num} of {path} has more cells than the first line has columns")
                yield Row(f"line {table.line_num} of {path}", row)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error
    except csv.Error as error:
        raise DataError(f"{path} is no table: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


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
