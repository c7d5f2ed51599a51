"""Shapes: what is given stays as given, the rest keeps an even share, the finest width fills the budget."""

import pytest

from graphprune.analysis.analyse import analyze
from graphprune.budget.budgets import Budget, cost_of
from graphprune.errors import BudgetError, UsageError
from graphprune.pruning.candidates import free_blocks
from graphprune.training.shearing.shape import Shape, find_shape, read_shape
from tests.support.tiny_llama import tiny_graph

KINDS = frozenset({"mlp", "attention", "residual"})


def shape(target: int, *given: str) -> Shape:
    groups = analyze(tiny_graph())
    candidates = (*groups.prunable(KINDS), *free_blocks(groups, ("layers",), {}))
    return find_shape(groups, candidates, Budget(target, uniform=True), read_shape(given))


def widths(found: Shape) -> dict[str, set[int]]:
    kinds = {group.id: group.kind for group in analyze(tiny_graph()).groups}
    result: dict[str, set[int]] = {}
    for id, count in found.counts.items():
        result.setdefault(kinds[id], set()).add(count)
    return result


def test_a_target_gives_equal_layers_of_even_shares_that_just_meet_it() -> None:
    whole = tiny_graph().parameter_count()
    for share in (0.8, 0.6, 0.4):
        found = shape(int(share * whole))
        each = widths(found)
        assert all(len(counts) == 1 for counts in each.values())
        assert found.cost <= share * whole
        groups = analyze(tiny_graph())
        finer = {id: n + 1 for id, n in found.counts.items() if groups[id].kind == "mlp"}
        assert cost_of(groups, Budget(1))({**groups.sizes(), **found.counts, **finer}) > share * whole
        kept = [each["residual"].pop() / 32, each["attention"].pop() / 4]
        assert max(kept) - min(kept) <= 0.25, "a head is a quarter"


def test_what_is_given_is_what_comes_out() -> None:
    whole = tiny_graph().parameter_count()
    found = shape(whole, "residual=20", "attention=3", "mlp=11", "layers=1")
    assert widths(found) == {"residual": {20}, "attention": {3}, "mlp": {11}}
    assert found.layers == 1
    assert all("=" in each for each in found.keep)
    fuller = shape(int(0.7 * whole), "layers=1")
    assert fuller.layers == 1
    assert min(widths(fuller)["mlp"]) > min(widths(shape(int(0.7 * whole)))["mlp"]), "one layer has more room"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            ("mlp=25",),
            UsageError,
            "shape mlp=25: .* has 24 units, and may keep 1, 2, 3, ..., 22, 23, 24",
        ),
        (("layers=3",), UsageError, "shape has 3 layers, and the model 2 that may go"),
        (("experts=2",), UsageError, "shape names experts, of which nothing may be cut here"),
        (("mlp=x",), UsageError, "shape 'mlp=x': write a kind and the units that stay"),
        (("depth=2",), UsageError, "shape 'depth=2': write a kind"),
        (("mlp=2", "mlp=3"), UsageError, "shape names mlp twice"),
        (("residual=32", "attention=4", "mlp=24"), BudgetError, "this shape costs .*, more than the target of"),
    ],
)
def test_what_no_shape_can_be_is_said(given: tuple[str, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        shape(tiny_graph().parameter_count() // 2, *given)
