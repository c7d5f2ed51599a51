"""Wanda-sp and magnitude-sp against a few lines on what hooks saw, and what leaves their order as it is."""

import pytest
import torch

from graphprune.errors import UsageError
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.passes.importance.wanda import Wanda
from graphprune.pruning.interfaces import view
from tests.passes.test_fluctuation import READ_BY, groups_of
from tests.support.families import analysis, families, graph
from tests.support.seen_inputs import IDS, layer_inputs, weight_of


@pytest.mark.parametrize("family", families(["llama", "qwen3"]))
def test_the_published_formulas(family: str) -> None:
    scene = view(graph(family), groups_of(family), IDS.split([2, 4]))
    mean, whole = Wanda().score(scene), Wanda("sum").score(scene)
    columns = {p: Magnitude(p, of="columns").score(scene) for p in (1, 2)}
    seen = layer_inputs(family, tuple(READ_BY.values()))
    for group in groups_of(family):
        layer = f"layers.{group.id.split('layers.')[1].split('.')[0]}."
        name = next(n for n in seen if layer in n and n.endswith(READ_BY[group.kind]))
        x, weight = seen[name].flatten(0, 1), weight_of(family, name)
        each = weight.abs() * x.square().mean(0).sqrt()
        for found, expected in (
            (mean, each.mean(0)),
            (whole, each.sum(0)),
            (columns[1], weight.abs().sum(0)),
            (columns[2], weight.square().sum(0).sqrt()),
        ):
            units = expected.view(group.units, -1).sum(1)
            torch.testing.assert_close(found[group.id].double(), units, rtol=1e-4, atol=1e-9)


def test_a_rescaling_that_leaves_the_model_as_it_is_leaves_the_scores() -> None:
    plain, factor = graph("llama"), 300.0
    up, down = (f"model.layers.0.mlp.{side}_proj.weight" for side in ("up", "down"))
    weights = {name: plain.parameters()[name].detach().clone() for name in (up, down)}
    weights[up][[1, 5]] *= factor
    weights[down][:, [1, 5]] /= factor
    scaled = plain.with_tensors({name: torch.nn.Parameter(weight) for name, weight in weights.items()})
    before, after = (Wanda().score(view(one, groups_of("llama"), [IDS])) for one in (plain, scaled))
    assert all(torch.allclose(before[id], after[id], rtol=1e-4) for id in before)


def test_units_that_no_linear_call_reads_are_refused() -> None:
    state = [g for g in analysis("mamba").groups.prunable() if g.id.endswith("x_proj.weight:0/mlp")]
    with pytest.raises(UsageError, match="no linear call reads it; use taylor"):
        Wanda().score(view(graph("mamba"), state, [IDS]))
    with pytest.raises(UsageError, match="--data"):
        Wanda().score(view(graph("llama")))
