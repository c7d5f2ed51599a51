"""JSON that is read: what cannot be walked or held is refused as what is no JSON is."""

from pathlib import Path

import pytest

from graphprune.json_data import parse_json, read_object


@pytest.mark.parametrize("text", ["[" * 101 + "]" * 101, "[" * 90000, '{"a":' * 5000 + "1" + "}" * 5000])
def test_what_is_nested_too_deeply_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"nested more than 100 levels|Expecting"):
        parse_json(text)


def test_what_is_nested_as_files_are_is_read() -> None:
    assert parse_json("[" * 90 + "]" * 90)
    assert parse_json(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}


@pytest.mark.parametrize("text", [b"[1]", b"3", b"\xff", b"9" * 9000, b"{", b"\0"])
def test_a_file_holds_an_object_or_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(ValueError):  # noqa: PT011  # whatever json says, in a line
        read_object(path)
