"""Minitron's scores against a few lines on what hooks saw."""

import pytest
import torch
from torch import Tensor

from graphprune.errors import DataError, UsageError
from graphprune.passes.importance.activation import Activation
from graphprune.pruning.interfaces import view
from tests.passes.test_fluctuation import READ_BY
from tests.support.families import analysis, families, graph, model
from tests.support.seen_inputs import IDS, layer_inputs


def sizes(x: Tensor, tokens: str, rows: str) -> Tensor:
    """Over the tokens of a row, then over rows; as published: the mean of |x|, then L2."""
    each = x.abs().mean(1) if tokens == "mean" else x.square().mean(1).sqrt()
    return each.sum(0) if rows == "mean" else each.square().sum(0).sqrt()


@pytest.mark.parametrize("family", families(["llama"]))
@pytest.mark.parametrize("rows", ["l2", "mean"])
@pytest.mark.parametrize("tokens", ["mean", "l2"])
def test_the_published_formula_for_channels_and_heads(family: str, tokens: str, rows: str) -> None:
    groups = [g for g in analysis(family).groups.prunable() if g.kind in READ_BY]
    # Rows may be split over batches, which the sums do not see.
    scores = Activation(tokens, rows).score(view(graph(family), groups, IDS.split([2, 4])))  # type: ignore[arg-type]
    seen = layer_inputs(family, tuple(READ_BY.values()))
    for group in groups:
        layer = f"layers.{group.id.split('layers.')[1].split('.')[0]}."
        name = next(n for n in seen if layer in n and n.endswith(READ_BY[group.kind]))
        expected = sizes(seen[name], tokens, rows).view(group.units, -1).square().sum(1).sqrt()
        torch.testing.assert_close(scores[group.id].double(), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("family", families(["llama", "gpt2", "opt"]))
def test_one_ranking_of_the_residual_width_over_all_norms(family: str) -> None:
    (group,) = (g for g in analysis(family).groups.prunable() if g.kind == "residual")
    score = Activation().score(view(graph(family), [group], [IDS]))[group.id].double()
    kinds = ("RMSNorm", "LayerNorm")
    norms, seen = [m for m in model(family).modules() if type(m).__name__.endswith(kinds)], list[Tensor]()
    hooks = [norm.register_forward_hook(lambda *call: seen.append(call[2].detach().double())) for norm in norms]
    with torch.no_grad():
        model(family)(input_ids=IDS, use_cache=False)
    for hook in hooks:
        hook.remove()
    expected = torch.stack([sizes(each.reshape(len(IDS), -1, 32), "mean", "l2") for each in seen]).sum(0)
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-9)


def test_the_order_of_rows_does_not_matter() -> None:
    scene = view(graph("llama"), batches=[IDS])
    groups = [g for g in scene.candidates if g.kind in ("mlp", "attention", "residual")]
    one, other = (Activation().score(view(graph("llama"), groups, [ids])) for ids in (IDS, IDS.flip(0)))
    assert all(torch.allclose(one[id], other[id], rtol=1e-5) for id in one)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UsageError, match="--data"):
        Activation().score(view(graph("llama")))
    with pytest.raises(UsageError, match="rows"):
        Activation(rows="max")  # type: ignore[arg-type]
    weight = graph("llama").parameters()["model.layers.0.mlp.up_proj.weight"] * float("nan")
    broken = graph("llama").with_tensors({"model.layers.0.mlp.up_proj.weight": torch.nn.Parameter(weight)})
    mlp = [g for g in analysis("llama").groups.prunable() if g.kind == "mlp"]
    with pytest.raises(DataError, match="not finite"):
        Activation().score(view(broken, mlp, [IDS]))
