"""A name for tensors: the same for the same content, another for any change."""

import torch

from graphprune.data.tensor_names import name_tensors


def test_the_name_goes_by_names_types_shapes_and_values() -> None:
    weight = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    name = name_tensors({"w": weight})
    assert name == name_tensors({"w": weight.clone()})
    assert name == name_tensors({"w": weight.t().contiguous().t()}), "where it lies in memory does not matter"
    others = [
        {"v": weight},
        {"w": weight + 1},
        {"w": weight.reshape(4, 3)},
        {"w": weight.view(torch.int32)},
        {"w": weight, "x": weight},
    ]
    found = {name_tensors(each) for each in others} | {name_tensors({"w": weight}, "said")}
    assert len(found) == len(others) + 1
    assert name not in found
    assert name_tensors({"b": weight.bfloat16()}) != name_tensors({"b": weight.half()})
