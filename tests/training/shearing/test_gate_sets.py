"""Gate sets: values for each candidate, exactly as many gates as are to stay, shares that cannot be learned."""

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.errors import UsageError
from graphprune.pruning.candidates import free_blocks
from graphprune.training.shearing.gate_sets import GateSet, sets_of
from tests.support.tiny_llama import tiny_graph

CHANNELS = "model.layers.1.mlp.gate_proj.weight:0"


def test_a_group_has_its_factors_and_the_branches_of_a_layer_share_one() -> None:
    groups = analyze(tiny_graph())
    blocks = free_blocks(groups, ("layers",), {})
    channels, layers = sets_of((groups[CHANNELS], *blocks), {CHANNELS: 9}, 1, 2 / 3)
    assert (channels.keep, channels.units, channels.sparsity) == (9, 24, 1 - 9 / 24)
    assert channels.values(torch.arange(24.0)).keys() == {CHANNELS}
    values = layers.values(torch.tensor([0.25, 1.0]))
    assert {id: value.tolist() for id, value in values.items()} == {
        f"model.layers.{n}.{part}": [factor] for n, factor in ((0, 0.25), (1, 1.0)) for part in ("self_attn", "mlp")
    }


def test_exactly_as_many_stay_as_are_to_and_the_first_of_equals() -> None:
    chosen = GateSet("a", "mlp", 5, 3, (("a",),)).chosen(torch.tensor([0.0, 2.0, 0.0, 3.0, 0.0]))
    assert chosen.tolist() == [1, 1, 0, 1, 0]


def test_what_is_to_stay_whole_has_no_gates_and_what_cannot_be_learned_is_said() -> None:
    groups = analyze(tiny_graph())
    assert sets_of((groups[CHANNELS],), {CHANNELS: 24}, 0, 2 / 3) == []
    with pytest.raises(UsageError, match=r"gates cannot learn to keep 1 of 24 units .* stay above 0\.047"):
        sets_of((groups[CHANNELS],), {CHANNELS: 1}, 0, 2 / 3)
