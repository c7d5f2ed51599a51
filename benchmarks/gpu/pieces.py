"""Large files in pieces: cut into numbered files with a manifest of hashes, joined again where they are all there."""

import hashlib
import json
import lzma
import shutil
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

MANIFEST = ".pieces.json"
_CHUNK = 1 << 22
_UNITS = {"": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_GAIN = 0.97  # what a repacked file must be below


class PiecesError(Exception):
    """A piece is missing or is not what was cut."""


@dataclass(frozen=True)
class Manifest:
    """A file in pieces. `packed` says what joining gives: the file itself, or the file in `xz`."""

    name: str
    packed: str
    size: int
    sha256: str
    pieces: tuple[tuple[str, int, str], ...]  # name, size, sha256


def parse_size(text: str) -> int:
    """Read `60MiB` or `1000000`. Raises ValueError."""
    number = text.strip().rstrip("KMGiIbB")
    return int(float(number) * _UNITS[text.strip()[len(number) :].upper()]) if number else int(text)


def split(path: Path, piece: int, folder: Path) -> Manifest:
    """Write a file, packed tighter where that makes it smaller, as pieces of at most `piece` bytes and a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    packed, kind = repack(path, folder)
    pieces: list[tuple[str, int, str]] = []
    with packed.open("rb") as file:
        while data := file.read(piece):
            name = f"{path.name}.{len(pieces):02d}"
            (folder / name).write_bytes(data)
            pieces.append((name, len(data), hashlib.sha256(data).hexdigest()))
    manifest = Manifest(path.name, kind, packed.stat().st_size, hash_file(packed), tuple(pieces))
    (folder / f"{path.name}{MANIFEST}").write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
    if packed != path:
        packed.unlink()
    return manifest


def repack(path: Path, folder: Path) -> tuple[Path, str]:
    """A tighter form of a file below `folder`, or the file itself where none is: a wheel in LZMA is a wheel still."""
    target = folder / f".{path.name}.packed"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as new:
            for item in old.infolist():
                entry = zipfile.ZipInfo(item.filename)
                entry.compress_type = zipfile.ZIP_LZMA
                with old.open(item) as source, new.open(entry, "w") as sink:
                    shutil.copyfileobj(source, sink, _CHUNK)
        kind = "none"
    else:
        with path.open("rb") as file:
            sample = file.read(_CHUNK)
        if len(lzma.compress(sample)) > _GAIN * len(sample):
            return path, "none"
        with path.open("rb") as source, lzma.open(target, "wb") as sink:
            shutil.copyfileobj(source, sink, _CHUNK)
        kind = "xz"
    if target.stat().st_size < _GAIN * path.stat().st_size:
        return target, kind
    target.unlink()
    return path, "none"


def join(manifest: Path, folder: Path) -> Path:
    """Put a file together in `folder`, or find it there, and return its path. Raises PiecesError."""
    listed = read_manifest(manifest)
    target = folder / listed.name
    done = folder / f"{listed.name}.{listed.sha256[:16]}.joined"
    if done.exists() and target.exists():
        return target
    missing = [name for name, size, _ in listed.pieces if not has(manifest.parent / name, size)]
    if missing:
        raise PiecesError(f"{listed.name} lacks {', '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    packed = folder / f".{listed.name}.part"
    with packed.open("wb") as file:
        for name, _, digest in listed.pieces:
            data = (manifest.parent / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                raise PiecesError(f"{name} is damaged: its hash is another than the manifest's; bring it again")
            file.write(data)
    if hash_file(packed) != listed.sha256:
        raise PiecesError(f"{listed.name} is damaged: its hash is another than the manifest's; cut it again")
    unpack(packed, target, listed.packed)
    done.touch()
    return target


def has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def unpack(packed: Path, target: Path, kind: str) -> None:
    if kind == "xz":
        with lzma.open(packed) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, _CHUNK)
        packed.unlink()
    else:
        packed.replace(target)


def read_manifest(path: Path) -> Manifest:
    values = json.loads(path.read_text(encoding="utf-8"))
    return Manifest(**{**values, "pieces": tuple(tuple(piece) for piece in values["pieces"])})


def join_all(source: Path, folder: Path) -> list[str]:
    """Join every file of which all pieces are there; returns a line for each that was found, joined or not."""
    said = []
    for manifest in sorted(source.glob(f"*{MANIFEST}")):
        try:
            said.append(f"{join(manifest, folder).name}: joined")
        except PiecesError as error:
            said.append(f"not joined: {error}")
    return said


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
