"""The constraint: the Lagrangian by hand, the ramp of targets, and that ascending multipliers make masks meet them."""

import pytest
import torch

from graphprune.gates.hard_concrete import TEMPERATURE, keep_probability
from graphprune.training.shearing.constraint import lagrangian, ramp, sparsity
from graphprune.training.shearing.gate_sets import GateSet

SETS = (
    GateSet("a", "mlp", 6, 3, (("a",),)),
    GateSet("b", "mlp", 4, 1, (("b",),)),
    GateSet("layers", "layers", 4, 3, (("x", "y"), ("z", "w"), ("u",), ("v",))),
)


def test_the_lagrangian_is_a_mean_over_layers_and_a_sum_over_kinds() -> None:
    draw = torch.Generator().manual_seed(0)
    positions = {s.name: torch.randn(s.units, generator=draw, dtype=torch.float64) for s in SETS}
    multipliers = {s.name: torch.randn(2, generator=draw, dtype=torch.float64) for s in SETS}
    expected = 0.0
    for name, target, members in (("a", 0.5, 2), ("b", 0.75, 2), ("layers", 0.25, 1)):
        gap = 1 - sum(keep_probability(positions[name]).tolist()) / len(positions[name]) - 0.3 * target
        first, second = multipliers[name].tolist()
        expected += (first * gap + second * gap**2) / members
    assert float(lagrangian(SETS, positions, multipliers, 0.3, TEMPERATURE)) == pytest.approx(expected)


def test_targets_rise_from_nothing_to_all_in_their_part_of_the_steps() -> None:
    assert [ramp(step, 100, 0.2) for step in (0, 5, 10, 20, 99)] == [0.0, 0.25, 0.5, 1.0, 1.0]
    assert ramp(0, 100, 0.0) == 0.0
    assert ramp(1, 100, 0.0) == 1.0


def test_masks_meet_their_targets_and_keep_what_matters_most() -> None:
    """256 gates whose loss is the sum of what closed ones cost; half are to go."""
    draw = torch.Generator().manual_seed(1)
    cost = torch.rand(256, generator=draw) / 64
    gates = GateSet("all", "mlp", 256, 128, (("all",),))
    position = torch.full((256,), 4.6, requires_grad=True)
    multiplier = torch.zeros(2, requires_grad=True)
    steps = 640
    optimizer = torch.optim.AdamW(
        [{"params": [position], "lr": 0.1}, {"params": [multiplier], "lr": 1.0, "maximize": True}], weight_decay=0.0
    )
    for step in range(steps):
        loss = (cost * (1 - keep_probability(position))).sum()
        optimizer.zero_grad()
        penalty = lagrangian((gates,), {"all": position}, {"all": multiplier}, ramp(step, steps, 0.2), TEMPERATURE)
        (loss + penalty).backward()
        optimizer.step()
        with torch.no_grad():
            position.clamp_(-4.605, 4.605)
    assert abs(float(sparsity(position.detach(), TEMPERATURE)) - 0.5) < 0.02
    gone = float((cost * (1 - gates.chosen(position))).sum())
    best, random = float(cost.sort().values[:128].sum()), float(cost.sum() / 2)
    assert gone - best < 0.1 * (random - best)
