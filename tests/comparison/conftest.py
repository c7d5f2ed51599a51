"""A tiny model with two texts that share nothing, and comparisons of it whose cells are answered by a stand-in."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphprune.comparison import running
from graphprune.comparison.options import CompareOptions
from tests.support.tiny_source import WORDS, write_source
from tests.support.tree import ROOT


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_source(tmp_path_factory.mktemp("compared"))
    (folder / "val.txt").write_text((WORDS.upper() + WORDS) * 20)
    return folder


@pytest.fixture
def options(model: Path, tmp_path: Path) -> Callable[..., CompareOptions]:
    """Options of a comparison with changes."""

    def make(**changes: Any) -> CompareOptions:
        plain: dict[str, Any] = {
            "methods": ("magnitude", "taylor"),
            "targets": ("80%", "60%"),
            "data": str(model / "text.txt"),
            "held_out": str(model / "val.txt"),
            "window": 32,
            "samples": 8,
            "length": 16,
            "out": tmp_path / "out",
        }
        return CompareOptions(str(model), **{**plain, **changes})

    return make


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """Have cells answered by the stand-in; gives what it was asked for so far."""
    log = tmp_path / "asked.log"
    monkeypatch.setattr(running, "WORKER", "tests.support.stand_in_cell")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("STAND_IN_LOG", str(log))
    return lambda: [line.rpartition(" ")[0] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of packages that this process and those it starts look into."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    return folder
