"""How much memory there is."""

from pathlib import Path

import pytest

from graphprune.weights import memory
from graphprune.weights.memory import free_memory


def test_the_smaller_of_the_system_and_the_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    info.write_text("MemTotal: 100 kB\nMemAvailable: 80 kB\n")
    monkeypatch.setattr(memory, "_INFO", info)
    monkeypatch.setattr(memory, "_LIMITS", (limit,))
    assert free_memory() == 80 * 1024
    limit.write_text("max\n")
    assert free_memory() == 80 * 1024
    limit.write_text("4096\n")
    assert free_memory() == 4096
    monkeypatch.setattr(memory, "_INFO", tmp_path / "none")
    assert free_memory() == 4096
    monkeypatch.setattr(memory, "_LIMITS", ())
    assert free_memory() is None
