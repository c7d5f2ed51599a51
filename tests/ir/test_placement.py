"""Tensors in memory of their own: what safetensors refuses to write is copied first."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from graphprune.ir.placement import unshared


def test_views_and_equal_memory_are_copied_and_the_rest_is_not(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    tensors = {"whole": whole, "again": whole.view(2, 3), "part": whole[2:], "turned": torch.arange(6.0).view(2, 3).T}
    found = unshared(tensors)
    assert found["whole"].data_ptr() == whole.data_ptr()
    save_file(found, tmp_path / "x.safetensors")
    for name, tensor in load_file(tmp_path / "x.safetensors").items():
        assert torch.equal(tensor, tensors[name])
