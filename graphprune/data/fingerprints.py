"""Fingerprints: what tells one text from another, to say whether a run goes on with what it began with."""

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

from graphprune.data.splits import split_name
from graphprune.data.stream.domains import split_domains
from graphprune.errors import DataError

_new = functools.partial(hashlib.blake2b, digest_size=32)  # a gigabyte a second, about as fast as files are read


def fingerprint(spec: str) -> dict[str, str | int]:
    """The name of a source, and for files all that is in them: size and hash of a file, or of every file of a folder.

    A data set of the hub and Python's own library are told by their names. Several texts have one hash, of those of
    each and their weights. Raises DataError for a file that cannot be read.
    """
    domains = split_domains(spec)
    if len(domains) == 1:
        return fingerprint_one(spec)
    found = [(fingerprint_one(domain.spec), domain.weight) for domain in domains]
    return {"name": spec, "blake2b": _new(repr(found).encode()).hexdigest()}


def fingerprint_one(spec: str) -> dict[str, str | int]:
    """The same for one text."""
    name, _ = split_name(spec)
    if not Path(name).expanduser().exists():
        name = name.partition(":")[0]  # a folder, and which of its data sets
    path = Path(name).expanduser()
    if not name or not path.exists():
        return {"name": spec}
    try:
        files = list(files_in(path))
        digest = _new()
        for file in files:
            digest.update(f"{file.relative_to(path)}\0{hash_file(file)}\n".encode(errors="surrogateescape"))
        size = sum(file.stat().st_size for file in files)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}") from error
    return {"name": str(path.resolve()) + spec.removeprefix(name), "bytes": size, "blake2b": digest.hexdigest()}


def files_in(path: Path) -> Iterator[Path]:
    """A file itself, or the files below a folder in order."""
    if path.is_dir():
        yield from (file for file in sorted(path.rglob("*")) if file.is_file())
    elif path.is_file():
        yield path


def hash_file(path: Path) -> str:
    """The hash of the whole content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _new).hexdigest()
