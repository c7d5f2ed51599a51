"""A graph whose factors were folded into its weights computes what the gated one does."""

import pytest
import torch

from graphprune.errors import PlanError
from graphprune.gates.fold import fold, folds_of
from tests.support import oracle, zoo
from tests.support.families import families, wide
from tests.support.gated import blocks, difference, gateable, gated, hard, random_plan, results

EVERY = pytest.mark.parametrize("name", families([*zoo.FAMILIES, *zoo.PAIRS]))
TOLERANCE = 1e-9


def foldable(name: str) -> list[str]:
    """The candidates that take soft factors."""
    found = []
    for group in (*gateable(name), *blocks(name)):
        if group.chosen:
            continue
        try:
            folds_of(gated(name), group.id)
            found.append(group.id)
        except PlanError:
            continue
    return found


@EVERY
def test_soft_factors_of_all_kinds_at_once(name: str) -> None:
    base, model, names = wide(name), gated(name), foldable(name)
    assert names
    units = {group.id: group.units for group in model.candidates}
    generator = torch.Generator().manual_seed(3)
    values = {id: 0.5 + torch.rand(units[id], dtype=torch.float64, generator=generator) for id in names}
    inputs = oracle.example(base.graph, oracle.SETTINGS[0])
    folded = fold(model, values)
    with torch.no_grad():
        expected = results(base.graph.outputs, model(values, *inputs))
        found = results(folded.outputs, folded(*inputs))
    assert difference(expected, found) <= TOLERANCE
    with torch.no_grad():
        plain = results(base.graph.outputs, base.graph(*inputs))
    assert difference(plain, found) > 1e-3, "the factors change something"


@EVERY
def test_soft_and_hard_factors_together(name: str) -> None:
    """Some units at zero, the others scaled: what is left is smaller and the same function."""
    base, model, names = wide(name), gated(name), foldable(name)
    plan = random_plan(name, "fold")
    values = hard(name, {id: units for id, units in plan.keep.items() if id in names})
    generator = torch.Generator().manual_seed(4)
    values = {id: v * (0.5 + torch.rand(v.shape, dtype=torch.float64, generator=generator)) for id, v in values.items()}
    folded = fold(model, values)
    assert folded.parameter_count() < base.graph.parameter_count()
    kept = folded.lineage.plan
    given = oracle.example(base.graph, {**oracle.SETTINGS[0], "past": 0})
    given = oracle.masked_inputs(base.graph, kept, base.analysis, given)
    inputs = dict(zip(base.graph.inputs, given, strict=True))
    narrowed = [oracle.narrow(base.analysis, base.graph, kept, n, inputs[n]) for n in folded.inputs]
    with torch.no_grad():
        expected = results(base.graph.outputs, model(values, *inputs.values()))
        found = results(folded.outputs, folded(*narrowed))
    expected = {n: oracle.narrow(base.analysis, base.graph, kept, n, expected[n]) for n in found}
    assert difference(expected, found) <= TOLERANCE


@pytest.mark.xdist_group("gpt2")
def test_tied_weights_take_no_soft_factors_and_say_so() -> None:
    (residual,) = (group for group in gateable("gpt2") if group.kind == "residual")
    half = torch.full((residual.units,), 0.5, dtype=torch.float64)
    with pytest.raises(PlanError, match="is read elsewhere as well; untie it first"):
        fold(gated("gpt2"), {residual.id: half})
    assert fold(gated("gpt2"), {residual.id: half.round() + 1}).parameter_count()


@pytest.mark.xdist_group("llama")
def test_what_cannot_be_folded_is_told() -> None:
    mlp = next(group for group in gateable("llama") if group.kind == "mlp")
    with pytest.raises(PlanError, match="has 2 masks; a graph is folded under one"):
        fold(gated("llama"), {mlp.id: torch.ones(2, mlp.units)})
    with pytest.raises(PlanError, match=r"every unit of .* has the factor 0"):
        fold(gated("llama"), {mlp.id: torch.zeros(mlp.units)})
