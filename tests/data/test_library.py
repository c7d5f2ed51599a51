"""Python's own library as text: which files, and which of them are held out on every machine."""

import ast
from pathlib import Path

import pytest

from graphprune.data.library import is_held_out, read_split, source_files

SKIPPED = {"test", "tests", "site-packages", "__pycache__", "lib2to3", "ensurepip", "encodings", "idlelib"}


def test_the_files_are_modules_in_order_without_tests_and_tables() -> None:
    files = source_files()
    assert files == sorted(set(files))
    assert {"ast.py", "argparse.py", "decoder.py"} <= {path.name for path in files}, "packages are looked into"
    assert {path.suffix for path in files} == {".py"}
    top = next(path.parent for path in files if path.name == "argparse.py")
    assert not [path for path in files if SKIPPED & set(path.relative_to(top).parts[:-1])]


@pytest.mark.parametrize(
    ("name", "held"), [("enum.py", True), ("pathlib.py", True), ("uuid.py", True), ("ast.py", False), ("csv.py", False)]
)
def test_a_name_alone_decides_what_is_held_out(name: str, held: bool) -> None:
    """The choice is part of what published numbers mean: it is the same wherever the library lies."""
    assert {is_held_out(folder / name) for folder in (Path(), Path("/usr/lib/python3.11"), Path("C:/x"))} == {held}


def test_a_sixteenth_of_the_files_is_held_out_and_no_file_is_in_both() -> None:
    files = source_files()
    train, held = read_split(held_out=False), read_split(held_out=True)
    assert len(train) + len(held) == len(files)
    assert 1 / 32 < len(held) / len(files) < 1 / 8
    wanted = [path.read_text(encoding="utf-8", errors="replace") for path in files if is_held_out(path)]
    assert held == wanted
    assert ast.parse(max(train, key=len)).body, "whole files"
