"""Boosting: one sum for so many inputs, and the mean of what is masked in each group, against loops."""

import pytest
import torch

from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.edits.editing import edited
from graphprune.training.patterns.boosting import branch_edits, group_means
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")


def test_groups_are_of_so_many_inputs_and_branches_that_are_there_stay() -> None:
    calls = [call for call in find_linear_calls(tiny_graph()) if "layers.0.mlp" in call.weight]
    edits = branch_edits(tiny_graph(), calls, 16)
    kinds = {edit.of.split(".")[-2]: edit.kind for edit in edits}
    wide, narrow = "side-branch{rank=2}", "side-branch{rank=2}"  # of 32 inputs, and of 24 with a shorter group
    assert kinds == {"gate_proj": wide, "up_proj": wide, "down_proj": narrow}
    assert branch_edits(edited(tiny_graph(), edits), calls, 16) == ()


def test_means_are_of_masked_weights_with_kept_ones_as_zeros() -> None:
    call = next(call for call in find_linear_calls(tiny_graph()) if call.weight.endswith("layers.0.mlp.up_proj.weight"))
    tensors = edited(tiny_graph(), branch_edits(tiny_graph(), [call], 8)).tensors()
    weight = tensors[call.weight].detach()
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    found = group_means(call, tensors, kept)
    for row in range(weight.shape[0]):
        for group in range(4):
            places = range(8 * group, 8 * group + 8)
            by_hand = sum(float(weight[row, i]) for i in places if not kept[row, i]) / 8
            assert float(found[row, group]) == pytest.approx(by_hand, abs=1e-6)
