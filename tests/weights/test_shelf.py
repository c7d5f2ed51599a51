"""What is shelved is the same, in memory of a file that nobody sees and that goes with it."""

import os
from pathlib import Path

import pytest
import torch

from graphprune.weights.mapping import release
from graphprune.weights.shelf import is_large, shelve


def test_values_are_the_same_in_a_file_without_a_name(tmp_path: Path) -> None:
    value = torch.randn(5, 40, 2000)
    held = shelve(value, tmp_path)
    assert torch.equal(held, value)
    assert held.data_ptr() != value.data_ptr()
    assert not list(tmp_path.iterdir())
    place = Path("/proc/self/maps")
    if place.is_file():
        assert str(tmp_path) in place.read_text()
        del held
        assert str(tmp_path) not in place.read_text()


def test_what_was_given_back_is_read_again(tmp_path: Path) -> None:
    value = torch.randn(1 << 16)
    held = shelve(value, tmp_path)
    for _ in range(2):
        assert torch.equal(held, value)
        release(held)


def test_small_values_are_not_worth_a_file() -> None:
    assert is_large(torch.zeros(1 << 14))
    assert not is_large(torch.zeros((1 << 14) - 1))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        shelve(torch.randn(1 << 16), tmp_path)
