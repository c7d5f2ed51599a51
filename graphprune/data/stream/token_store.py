"""Where the tokens of a training text are kept: in memory, or in files that are mapped and found again."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy
from numpy.typing import NDArray

from graphprune.data.conversations import Encoded
from graphprune.data.splits import split_name
from graphprune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Id = numpy.uint16 | numpy.int32
Ids = NDArray[Id]
Element = TypeVar("Element", bound=numpy.generic)


@dataclass(frozen=True, eq=False)
class Tokens:
    """A text as tokens [n], of as few bytes as its vocabulary needs, and which of them carry the loss: bool [n]."""

    ids: Ids
    learned: NDArray[numpy.bool_]


def element_type(vocabulary: int | None) -> type[Id]:
    """The integers that hold every token."""
    return numpy.uint16 if vocabulary is not None and vocabulary <= 1 << 16 else numpy.int32


def collect(encoded: Iterable[Encoded], vocabulary: int | None) -> Tokens:
    """Keep tokens in memory."""
    kind = element_type(vocabulary)
    chunks = [(ids.astype(kind), learned) for ids, learned in encoded]
    if not chunks:
        return Tokens(numpy.empty(0, dtype=kind), numpy.empty(0, dtype=numpy.bool_))
    return Tokens(numpy.concatenate([ids for ids, _ in chunks]), numpy.concatenate([learned for _, learned in chunks]))


def store(encoded: Iterable[Encoded], vocabulary: int | None, folder: Path, key: str) -> Tokens:
    """Keep tokens in files of a folder, named after `key`, and map them; what is there already is not made again.

    Files appear whole or not at all, so that several processes may do this at once. Raises DataError where the folder
    cannot be written.
    """
    kind = element_type(vocabulary)
    paths = folder / f"tokens-{key}.{numpy.dtype(kind).name}", folder / f"learned-{key}.bool"
    try:
        if not all(path.is_file() for path in paths):
            folder.mkdir(parents=True, exist_ok=True)
            write(encoded, kind, *paths)
        return Tokens(map_file(paths[0], kind), map_file(paths[1], numpy.bool_))
    except OSError as error:
        raise DataError(f"cannot keep tokens in {folder}: {error.strerror}; make room or name another") from error


def write(encoded: Iterable[Encoded], kind: type[Id], ids_path: Path, learned_path: Path) -> None:
    """Write both files beside their places, then rename them."""
    partial = [path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial") for path in (ids_path, learned_path)]
    try:
        with partial[0].open("wb") as ids_file, partial[1].open("wb") as learned_file:
            for ids, learned in encoded:
                ids.astype(kind).tofile(ids_file)
                learned.tofile(learned_file)
        for source, target in zip(partial, (ids_path, learned_path), strict=True):
            os.replace(source, target)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)


def map_file(path: Path, kind: type[Element]) -> NDArray[Element]:
    """The elements of a file, read when they are looked at; an empty file cannot be mapped."""
    return numpy.memmap(path, dtype=kind, mode="r") if path.stat().st_size else numpy.empty(0, dtype=kind)


def key_of(tokenizer: "PreTrainedTokenizerBase", spec: str, options: Mapping[str, object]) -> str:
    """A name for what the tokens of a source depend on: its files, the tokenizer and its template, the options."""
    path = Path(split_name(spec)[0]).expanduser()
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    words = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    parts = [spec, state, words, tokenizer.chat_template, tokenizer.eos_token_id, dict(options)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
