"""Memory of files: found where it is, given back, and read again as it was."""

import ctypes
import mmap
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from graphprune.weights.mapping import dense, expect, free_at_once, is_mapped, mapped_ranges, release, system_call


def file_pages() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))


@pytest.mark.skipif(system_call() is None, reason="this system has no /proc and madvise as Linux does")
def test_a_file_gives_its_memory_back_and_is_read_again(tmp_path: Path) -> None:
    values = torch.arange(4_000_000, dtype=torch.float32).view(2000, 2000)
    save_file({"a": values}, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        tensor = file.get_tensor("a")
        assert is_mapped(tensor, mapped_ranges())
        total = tensor.sum()
        read = file_pages()
        release(tensor)
        assert file_pages() < read - 10_000  # KiB, of 15,625
        assert tensor.sum() == total
        assert torch.equal(tensor, values)


@pytest.mark.skipif(system_call() is None, reason="this system has no /proc and madvise as Linux does")
def test_what_is_expected_is_read_from_the_disk_meanwhile(tmp_path: Path) -> None:
    path, page = tmp_path / "a.safetensors", mmap.PAGESIZE
    save_file({"a": torch.arange(4_000_000, dtype=torch.float32)}, path)
    os.sync()
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with safe_open(path, "pt") as file:
        tensor = file.get_tensor("a")
        first = -(-tensor.data_ptr() // page) * page
        count = (tensor.data_ptr() + tensor.nbytes - first) // page

        def there() -> int:
            """How many of its pages are in memory, whoever asked for them."""
            seen = (ctypes.c_ubyte * count)()
            call = ctypes.CDLL(None).mincore
            assert call(ctypes.c_void_p(first), ctypes.c_size_t(count * page), seen) == 0
            return sum(each & 1 for each in seen)

        if there() > count // 2:
            pytest.skip("the system keeps this file in memory whatever it is told")
        expect(tensor)
        end = time.monotonic() + 30
        while there() < count and time.monotonic() < end:
            time.sleep(0.01)
        assert there() == count


def test_memory_of_our_own_is_no_files() -> None:
    assert not is_mapped(torch.zeros(10), mapped_ranges())


@pytest.mark.skipif(system_call() is None, reason="this system has no /proc and madvise as Linux does")
def test_large_blocks_go_back_at_once() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    free_at_once()
    kept, before = [], resident()
    for _ in range(20):
        block = torch.ones(4 << 20)  # 16 MiB, between small ones that stay
        kept.append(torch.ones(1000))
        del block
    assert (resident() - before) * mmap.PAGESIZE < 64 << 20


def test_only_what_fills_its_memory_is_given_back() -> None:
    whole = torch.zeros(6, 4)
    assert dense(whole)
    assert dense(whole.t())
    assert dense(whole[2:4])
    assert not dense(whole[:, :2])
    assert not dense(whole.expand(3, 6, 4))
    assert not dense(whole[:0])
