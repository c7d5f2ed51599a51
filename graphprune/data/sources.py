"""Sources: texts from a file, a folder, a datasets id, or the Python library."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from graphprune.data.library import LIBRARY, is_held_out, source_files
from graphprune.data.readers import Row, read_dataset, read_json, read_jsonl, read_parquet, read_plain, read_table
from graphprune.data.records import Render, joined, text_of
from graphprune.data.splits import choose_bytes, choose_rows, split_name
from graphprune.data.stream.domains import each_domain, split_domains
from graphprune.errors import DataError, first_line, foreign
from graphprune.paths import path_of

_READERS = {".json": read_json, ".csv": read_table, ".tsv": read_table}
_ROW_SUFFIXES = {".jsonl", ".ndjson", ".parquet", *_READERS}
METADATA = "metadata.jsonl"  # the records of a folder of images, as `datasets` has it
_FILE_SUFFIXES = {*_ROW_SUFFIXES, ".txt", ".text", ".md", ".py", ".gz", ".zst"}

# Sixteen times as many tokens as are drawn give varied windows; text has about four bytes a token.
_VARIETY, _BYTES_PER_TOKEN = 16, 4
_OWN = re.compile(r"self\s*(\{.*)?(#.*)?", re.DOTALL)
_LOOKED_AT = 1 << 16  # bytes
_PATIENCE = 5.0  # seconds


def read_texts(spec: str, field: str = "text", limit: int | None = None, render: Render = joined) -> Iterator[str]:
    """Yield the documents of a text file, a file with records, a `datasets` id or `stdlib`.

    Records are in a .jsonl, .json, .csv, .tsv or .parquet file; their text is in `field`, or in a conversation or an
    instruction and its answer, which `render` makes a text of. A text file is one document, or several where
    `<|endoftext|>` stands between them. `#train` or `#held-out` behind the name is a part of the source; the two share
    nothing.

    A data set is `name`, `name:config` or `name:config:split` (or a folder in place of the name), is streamed, and is
    the only source that needs a network. `stdlib` and `stdlib:held-out` are the two splits of Python's own library.
    `limit` ends the text after so many bytes of UTF-8. Of several texts, `a.txt=2,b.txt=1`, one comes after the other,
    each with its share of the limit. Raises DataError where there is no text.
    """
    domains = split_domains(spec)
    for domain in domains:
        share = limit if limit is None or len(domains) == 1 else max(1, round(limit * domain.weight))
        documents = cut(open_source(domain.spec, field, share, render), share)
        first = next(documents, None)
        if first is None:
            raise DataError(f"{domain.spec} holds no text")
        yield first
        yield from documents


def look_at_text(spec: str, field: str) -> None:
    """Open a text and read its beginning, before anything is done for it; each of several. Raises DataError."""
    for domain in split_domains(spec):
        if domain.spec not in LIBRARY and has_rows(domain.spec):
            check_dataset(split_name(domain.spec)[0])
        next(read_texts(domain.spec, field, _LOOKED_AT))


def is_own(spec: str) -> bool:
    """Whether a source is what the model writes itself: `self` and its options, whatever file has that name."""
    return _OWN.fullmatch(spec.strip()) is not None


def shown_source(spec: str) -> str:
    """The name of a source as others may read it: a file or folder by its last name, without where it lies."""
    return each_domain(spec, shown_text)


def shown_text(spec: str) -> str:
    """The same for one text."""
    name, part = split_name(spec)
    shown = name if name in LIBRARY or not is_local(name) else Path(name).name
    return f"{shown}#{part}" if part else shown


def is_local(name: str) -> bool:
    """Whether a name is of something on this machine and not of a hub."""
    return Path(name).is_absolute() or name.startswith(("~", ".")) or Path(name).expanduser().exists()


def open_source(spec: str, field: str, limit: int | None, render: Render) -> Iterator[str]:
    """The reader that fits what `spec` names."""
    if has_rows(spec):
        return (text for row in open_rows(spec, field) for text in text_of(row, field, render))
    return open_plain(spec, limit)


def has_rows(spec: str) -> bool:
    """Say whether a source has rows with fields, such as a data set, and not plain text alone."""
    if spec in LIBRARY:
        return False
    path = path_of(split_name(spec)[0])
    return not path.is_file() or path.suffix.lower() in _ROW_SUFFIXES


def open_plain(spec: str, limit: int | None) -> Iterator[str]:
    """Yield the documents of a source without rows."""
    if spec in LIBRARY:
        return read_library(held_out=spec != "stdlib")
    name, part = split_name(spec)
    path = path_of(name)
    if part is None:
        return read_plain(path, limit)
    start, end = choose_bytes(path.stat().st_size, part)
    return read_plain(path, end - start if limit is None else min(limit, end - start), start)


def open_rows(spec: str, field: str | None = None) -> Iterator[Row]:
    """Yield the rows of a file with records or a data set. `field` says that no other will be asked for."""
    name, part = split_name(spec)
    return choose_rows(open_all_rows(name, field), part)


def check_dataset(spec: str) -> None:
    """Raise DataError for the name of a data set that is neither here nor on the hub, which is asked once."""
    if is_own(spec):
        raise DataError(
            f"{spec[:40]} is what a model writes itself, which stands alone in --data of compile and sweep; elsewhere "
            "name the file that they keep it in, which a note of compile says"
        )
    name = spec.partition(":")[0]
    if is_named_file(spec) or path_of(spec).exists() or path_of(name).exists():
        return
    from huggingface_hub import HfApi, constants

    kept = (Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}").exists()
    if not kept and not (Path(constants.HF_HOME) / "datasets" / name.replace("/", "___")).exists():
        why = f"{spec[:100]!r} is no file, and as a data set it cannot be read"
        with foreign(lambda error: DataError(f"{why}: {first_line(error)[:200]}")):
            HfApi().dataset_info(name, timeout=_PATIENCE)


def is_named_file(spec: str) -> bool:
    """Say whether a name can only be meant as a file's."""
    return not spec or Path(spec).suffix.lower() in _FILE_SUFFIXES or spec.startswith(("/", ".", "~"))


def open_all_rows(spec: str, field: str | None) -> Iterator[Row]:
    path = path_of(spec)
    if path.is_file():
        suffix = path.suffix.lower()
        return read_parquet(path, field) if suffix == ".parquet" else _READERS.get(suffix, read_jsonl)(path)
    name, colon, rest = spec.partition(":")
    if path.is_dir() and (path / METADATA).is_file():
        return read_jsonl(path / METADATA)
    if name and path_of(name).is_dir():
        return read_dataset(f"{path_of(name)}{colon}{rest}")
    if is_named_file(spec):
        raise DataError(
            f"no text file at {spec[:200]!r}; pass a .txt, .jsonl, .json, .csv or .parquet file, a datasets id or "
            "'stdlib'"
        )
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
