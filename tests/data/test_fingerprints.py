"""A fingerprint changes with any byte of a text, wherever it stands."""

from pathlib import Path

import pytest

from graphprune.data.fingerprints import fingerprint, hash_file


@pytest.mark.parametrize("place", [0, 1 << 20, 2 << 20, (3 << 20) - 1])
def test_every_byte_counts(tmp_path: Path, place: int) -> None:
    path = tmp_path / "text.txt"
    data = bytearray(b"a" * (3 << 20))
    path.write_bytes(data)
    before = fingerprint(str(path))
    assert before == fingerprint(str(path))
    assert before["bytes"] == len(data)
    data[place] = ord("b")
    path.write_bytes(data)
    after = fingerprint(str(path))
    assert after["bytes"] == before["bytes"]
    assert after != before


def test_folders_and_parts_count_too(tmp_path: Path) -> None:
    (tmp_path / "data" / "b").mkdir(parents=True)
    (tmp_path / "data" / "a.jsonl").write_text("one")
    (tmp_path / "data" / "b" / "c.jsonl").write_text("two")
    found = [fingerprint(str(tmp_path / "data"))]
    (tmp_path / "data" / "b" / "c.jsonl").write_text("owt")
    found.append(fingerprint(str(tmp_path / "data")))
    (tmp_path / "data" / "b" / "c.jsonl").rename(tmp_path / "data" / "b" / "d.jsonl")
    found.append(fingerprint(str(tmp_path / "data")))
    found.append(fingerprint(f"{tmp_path / 'data' / 'a.jsonl'}#train"))
    found.append(fingerprint(f"{tmp_path / 'data' / 'a.jsonl'}"))
    assert len({tuple(each.items()) for each in found}) == 5
    assert fingerprint(f"{tmp_path / 'data'}:default:train")["blake2b"] == found[2]["blake2b"]


def test_what_is_no_file_is_its_name(tmp_path: Path) -> None:
    assert fingerprint("stdlib") == {"name": "stdlib"}
    assert fingerprint("acme/texts:de") == {"name": "acme/texts:de"}


def test_the_same_content_is_the_same_elsewhere(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("text")
    assert hash_file(tmp_path / "a") == hash_file(tmp_path / "b")
    assert fingerprint(str(tmp_path / "a"))["blake2b"] == fingerprint(str(tmp_path / "b"))["blake2b"]
