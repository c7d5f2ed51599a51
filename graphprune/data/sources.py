"""Sources: texts from a file, a folder, a datasets id, or the Python library."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from graphprune.data.library import is_held_out, source_files
from graphprune.data.readers import Row, read_dataset, read_jsonl, read_parquet, read_plain, text_of
from graphprune.data.splits import choose_bytes, choose_rows, split_name
from graphprune.errors import DataError

LIBRARY = ("stdlib", "stdlib:held-out")
_ROW_SUFFIXES = {".jsonl", ".ndjson", ".parquet"}
_FILE_SUFFIXES = {*_ROW_SUFFIXES, ".txt", ".text", ".md", ".py", ".json", ".csv", ".gz", ".zst"}

# Sixteen times as many tokens as are drawn give varied windows; text has about four bytes a token.
_VARIETY, _BYTES_PER_TOKEN = 16, 4


def read_texts(spec: str, field: str = "text", limit: int | None = None) -> Iterator[str]:
    """Yield the documents of a text file, a .jsonl or .parquet file, a `datasets` id or `stdlib`.

    A text file is one document, or several where `<|endoftext|>` stands between them. `#train` or `#held-out` behind
    the name is a part of the source; the two share nothing.

    A data set is `name`, `name:config` or `name:config:split` (or a folder in place of the name), is streamed, and is
    the only source that needs a network. `stdlib` and `stdlib:held-out` are the two splits of Python's own library.
    `limit` ends the text after so many bytes of UTF-8. Raises DataError where there is no text.
    """
    documents = cut(open_source(spec, field, limit), limit)
    first = next(documents, None)
    if first is None:
        raise DataError(f"{spec} holds no text")
    yield first
    yield from documents


def shown_source(spec: str) -> str:
    """The name of a source as others may read it: a file or folder by its last name, without where it lies."""
    name, part = split_name(spec)
    shown = name if name in LIBRARY or not is_local(name) else Path(name).name
    return f"{shown}#{part}" if part else shown


def is_local(name: str) -> bool:
    """Whether a name is of something on this machine and not of a hub."""
    return Path(name).is_absolute() or name.startswith(("~", ".")) or Path(name).expanduser().exists()


def open_source(spec: str, field: str, limit: int | None) -> Iterator[str]:
    """The reader that fits what `spec` names."""
    if has_rows(spec):
        return (text for row in open_rows(spec, field) for text in text_of(row, field))
    return open_plain(spec, limit)


def has_rows(spec: str) -> bool:
    """Say whether a source has rows with fields, such as a data set, and not plain text alone."""
    path = Path(split_name(spec)[0]).expanduser()
    return spec not in LIBRARY and (not path.is_file() or path.suffix.lower() in _ROW_SUFFIXES)


def open_plain(spec: str, limit: int | None) -> Iterator[str]:
    """Yield the documents of a source without rows."""
    if spec in LIBRARY:
        return read_library(held_out=spec != "stdlib")
    name, part = split_name(spec)
    path = Path(name).expanduser()
    if part is None:
        return read_plain(path, limit)
    start, end = choose_bytes(path.stat().st_size, part)
    return read_plain(path, end - start if limit is None else min(limit, end - start), start)


def open_rows(spec: str, field: str | None = None) -> Iterator[Row]:
    """Yield the rows of a .jsonl or .parquet file or a data set. `field` says that no other will be asked for."""
    name, part = split_name(spec)
    return choose_rows(open_all_rows(name, field), part)


def open_all_rows(spec: str, field: str | None) -> Iterator[Row]:
    path = Path(spec).expanduser()
    if path.is_file():
        return read_parquet(path, field) if path.suffix.lower() == ".parquet" else read_jsonl(path)
    name, colon, rest = spec.partition(":")
    if name and Path(name).expanduser().is_dir():
        return read_dataset(f"{Path(name).expanduser()}{colon}{rest}")
    if path.suffix.lower() in _FILE_SUFFIXES or spec.startswith(("/", ".", "~")) or not spec:
        raise DataError(f"no text file at {spec!r}; pass a .txt, .jsonl or .parquet file, a datasets id or 'stdlib'")
    return read_dataset(spec)


def read_library(held_out: bool) -> Iterator[str]:
    """Yield the modules of one split of the standard library, each read when it is asked for."""
    chosen = (path for path in source_files() if is_held_out(path) == held_out)
    return (path.read_text(encoding="utf-8", errors="replace") for path in chosen)


def cut(documents: Iterable[str], limit: int | None) -> Iterator[str]:
    """Drop empty documents and end after `limit` bytes; a character that would be split is left out."""
    left = limit
    for text in filter(str.strip, documents):
        data = text.encode("utf-8", "replace")
        if left is None or len(data) < left:
            yield text
        else:
            yield data[:left].decode("utf-8", "ignore")
            return
        left = None if left is None else left - len(data)
