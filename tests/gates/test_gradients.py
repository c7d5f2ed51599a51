"""The gradient by a gate at 1 is what Taylor sums up over the weights that the gate stands for, signs kept."""

import pytest
import torch
from torch import Tensor

from graphprune.errors import PlanError
from graphprune.gates.fold import folds_of
from graphprune.gates.gated import gate
from graphprune.passes.importance.taylor import Taylor, gradient_lines
from graphprune.pruning.signals.unit_sums import Layout, arrange
from graphprune.running.inputs import decoder_inputs
from graphprune.running.loss import next_token_loss, predict
from tests.support.families import families, wide
from tests.support.gated import blocks, gateable

# Heads that share keys, biases, layer norms, fused projections, a parallel branch, norms of 1 + w, a state space.
NAMES = ("llama", "qwen2", "gpt2", "phi3", "gpt_neox", "falcon", "bloom", "opt", "gemma2", "mixtral", "mamba")
IDS = tuple(torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(0)).split(1))


def signed_sums(layout: Layout, lines: dict[object, Tensor], id: str) -> Tensor:
    """What `unit_scores` adds up, without the magnitudes."""
    total = torch.zeros(layout.units[id], dtype=torch.float64)
    for key, shares in layout.shares.items():
        for share in shares:
            if share.group == id:
                owner = torch.from_numpy(share.owner)
                total.index_add_(0, owner[owner >= 0], lines[key][owner >= 0])
    return total


@pytest.mark.parametrize("name", families(NAMES))
def test_at_one_it_is_the_sum_of_taylors_lines_over_the_same_sites(name: str) -> None:
    graph, slots, units = wide(name).graph, {}, {}
    model = gate(graph, [*(g for g in gateable(name) if not g.chosen), *blocks(name)])
    for group in model.candidates:
        try:
            slots[group.id], units[group.id] = folds_of(model, group.id), group.units
        except PlanError:  # no weight is proportional to it, or another call reads the weight too
            continue
    assert len(slots) >= 4
    names = {id: dict.fromkeys(slot.name for slot in found) for id, found in slots.items()}
    owned = [(id, each, [s for s in slots[id] if s.name == each]) for id in slots for each in names[id]]
    layout = arrange(units, owned)
    lines = gradient_lines(Taylor(gradients="batch"), graph, layout, IDS, None)

    ones = {id: torch.ones(size, dtype=torch.float64, requires_grad=True) for id, size in units.items()}
    for ids in IDS:
        loss = predict(graph, model(ones, *decoder_inputs(graph, ids)), ids, "mean")
        assert loss.item() == pytest.approx(next_token_loss(graph, ids).item(), rel=1e-12)
        (loss / len(IDS)).backward()  # type: ignore[no-untyped-call]
    for id, one in ones.items():
        assert one.grad is not None
        torch.testing.assert_close(one.grad, signed_sums(layout, lines, id), rtol=1e-8, atol=1e-11, msg=id)  # type: ignore[arg-type]
    assert max(float(one.grad.abs().max()) for one in ones.values() if one.grad is not None) > 1e-4
