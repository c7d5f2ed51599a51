"""FLAP's scores against a few lines on what hooks saw, what they mean, and what they cannot be made of."""

import pytest
import torch
from torch import Tensor

from graphprune.analysis.groups import Group
from graphprune.errors import DataError, UsageError
from graphprune.passes.importance.fluctuation import Fluctuation, standardised
from graphprune.pruning.interfaces import view
from tests.support.families import analysis, families, graph
from tests.support.seen_inputs import IDS, layer_inputs, weight_of

READ_BY = {"mlp": "down_proj", "attention": "o_proj"}


def groups_of(family: str) -> list[Group]:
    return [g for g in analysis(family).groups.prunable() if g.kind in READ_BY]


def scores(importance: Fluctuation, family: str, *batches: Tensor) -> dict[str, Tensor]:
    return importance.score(view(graph(family), groups_of(family), batches or (IDS,)))


def by_hand(family: str, group: Group, metric: str) -> Tensor:
    """The published formulas, one line each: [units, inputs of a unit]."""
    seen = layer_inputs(family, (READ_BY[group.kind],))
    name = next(n for n in seen if f"layers.{group.id.split('layers.')[1].split('.')[0]}." in n)
    x, weight = seen[name].flatten(0, 1), weight_of(family, name)
    found = {
        "ifv": x.var(0),
        "wifv": x.var(0) * (weight**2).sum(0),
        "wifn": weight.abs().mean(0) * (x**2).mean(0).sqrt(),
    }[metric]
    return found.view(group.units, -1)


@pytest.mark.parametrize("family", families(["llama", "qwen3"]))
@pytest.mark.parametrize("metric", ["wifv", "ifv", "wifn"])
def test_the_published_formulas(family: str, metric: str) -> None:
    raw = scores(Fluctuation(metric, standardize=False), family)  # type: ignore[arg-type]
    even = scores(Fluctuation(metric), family, *IDS.split([1, 2, 3]))  # type: ignore[arg-type]
    for group in groups_of(family):
        expected = by_hand(family, group, metric)
        torch.testing.assert_close(raw[group.id].double(), expected.sum(1), rtol=1e-4, atol=1e-9)
        z = (expected - expected.mean()) / expected.std()
        torch.testing.assert_close(even[group.id].double(), z.mean(1), rtol=1e-3, atol=1e-4)


def test_heads_are_squared_only_as_the_published_code_does() -> None:
    plain, squared = (scores(Fluctuation(standardize=False, official=yes), "llama") for yes in (False, True))
    for group in groups_of("llama"):
        expected = by_hand("llama", group, "wifv")
        expected = expected.square() if group.kind == "attention" else expected
        torch.testing.assert_close(squared[group.id].double(), expected.sum(1), rtol=1e-4, atol=1e-12)
        assert torch.equal(plain[group.id], squared[group.id]) == (group.kind == "mlp")


def test_a_score_is_the_error_of_putting_the_mean_in_place_of_a_channel() -> None:
    seen = layer_inputs("llama", ("down_proj",))
    name = next(iter(seen))
    x, weight = seen[name].flatten(0, 1), weight_of("llama", name)
    group = next(g for g in groups_of("llama") if g.kind == "mlp")
    score = scores(Fluctuation(standardize=False), "llama")[group.id]
    for channel in (0, 7, 43):
        changed = x.clone()
        changed[:, channel] = x[:, channel].mean()
        error = ((x - changed) @ weight.T).square().sum() / (len(x) - 1)
        assert float(score[channel]) == pytest.approx(float(error), rel=1e-4)


def test_scores_do_not_depend_on_how_the_text_is_split() -> None:
    whole, parts = scores(Fluctuation(), "llama"), scores(Fluctuation(), "llama", *IDS.split(1))
    assert all(torch.allclose(whole[id], parts[id], rtol=1e-5, atol=1e-6) for id in whole)


def test_what_does_not_fluctuate_stands_in_the_middle_and_is_no_nan() -> None:
    dead = graph("llama")
    name = "model.layers.0.mlp.up_proj.weight"
    still = dead.with_tensors({name: torch.nn.Parameter(torch.zeros_like(dead.parameters()[name]))})
    found = Fluctuation().score(view(still, groups_of("llama"), [IDS]))
    group = next(g for g in groups_of("llama") if "layers.0.mlp" in g.id)
    assert found[group.id].tolist() == [0.0] * group.units
    assert all(bool(torch.isfinite(each).all()) for each in found.values())
    assert standardised(torch.tensor([3.0]), torch.tensor([True])).tolist() == [0.0]


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UsageError, match="--data"):
        Fluctuation().score(view(graph("llama"), groups_of("llama")))
    with pytest.raises(DataError, match="more calibration text"):
        scores(Fluctuation(), "llama", IDS[:1, :1])
    with pytest.raises(UsageError, match="metric"):
        Fluctuation("wfiv")  # type: ignore[arg-type]
    name = "model.layers.0.mlp.up_proj.weight"
    broken = graph("llama").with_tensors({name: torch.nn.Parameter(graph("llama").parameters()[name] * float("inf"))})
    with pytest.raises(DataError, match="not finite"):
        Fluctuation().score(view(broken, groups_of("llama"), [IDS]))
