"""Limits at work: the plan of a pruning for a runtime has the widths that the runtime holds, whatever the scores."""

from dataclasses import replace

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Group
from graphprune.budget.budgets import Budget, free_widths
from graphprune.errors import BudgetError, UsageError
from graphprune.ir.graph import Graph
from graphprune.passes.allocation.global_ import Global
from graphprune.passes.importance.random_ import Random
from graphprune.pruning.rounds import Pruned, Request, prune
from graphprune.runtimes.known import find_runtime
from graphprune.runtimes.limits import held, narrow, require_held
from graphprune.runtimes.runtime import Limit, Runtime, Source
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")
BATCHES = (torch.randint(3, 60, (2, 8), generator=torch.Generator().manual_seed(0)),)
STEPS = Runtime("steps", "", "", (), "", "", "", (Limit("multiple", ("mlp",), "why", Source("here"), 8),))


def source() -> Graph:
    """Two layers of four key heads, with two queries each, and 24 channels."""
    return tiny_graph()


def cut(runtime: Runtime, share: float = 0.7, **options: object) -> Pruned:
    budget = narrow(Budget(int(source().parameter_count() * share)), runtime)
    request = Request(budget, Random(), Global(), runtime=runtime)
    return prune(source(), replace(request, **options), BATCHES)  # type: ignore[arg-type]


def widths(made: Pruned, kind: str) -> list[int]:
    groups = [group for group in analyze(source()).groups if group.kind == kind]
    return [len(made.plan.keep.get(group.id, range(group.units))) for group in groups]


@pytest.mark.parametrize("steps", [1, 3])
def test_heads_are_equal_and_channels_are_not(steps: int) -> None:
    made = cut(find_runtime("vllm"), kinds=("mlp", "attention"), steps=steps)
    assert len(set(widths(made, "attention"))) == 1
    assert steps > 1 or len(set(widths(made, "mlp"))) > 1
    free = cut(find_runtime("web"), kinds=("mlp", "attention"))
    assert len(set(widths(free, "attention"))) > 1, "the same scores give other heads where nothing limits them"
    assert made.graph.parameter_count() <= 0.7 * source().parameter_count()


def test_widths_are_multiples_the_full_one_too() -> None:
    made = cut(STEPS, kinds=("mlp", "attention"))
    assert all(width % 8 == 0 for width in widths(made, "mlp"))
    odd = Group("m", 20, (), (), "mlp", "", None, False, None)
    budget = narrow(Budget(1, round_to=4), STEPS)
    assert free_widths([odd], budget)[0].levels.tolist() == [8, 16]
    with pytest.raises(BudgetError, match="no multiple of 8 for m"):
        free_widths([replace(odd, units=7)], budget)


def test_the_first_attention_stays_and_others_may_go() -> None:
    vllm = find_runtime("vllm")
    branches = analyze(source()).branches
    assert [id for id in held(analyze(source()), vllm) if id in {b.id for b in branches}] == [branches[0].id]
    for seed_share in (0.9, 0.8, 0.7):
        made = cut(vllm, seed_share, kinds=("blocks",))
        assert branches[0].id not in made.plan.dropped
        assert made.plan.dropped
    layers = cut(vllm, 0.7, kinds=("layers", "mlp"))
    assert branches[0].id not in layers.plan.dropped


def test_what_is_held_cannot_be_asked_for() -> None:
    with pytest.raises(UsageError, match=r"--prune head_dim: every such group is locked; .* stays whole for vllm"):
        cut(find_runtime("vllm"), kinds=("head_dim",))


def test_what_stays_whole_must_fit_as_well() -> None:
    groups = analyze(source())
    mlps = groups.prunable(frozenset({"mlp"}))
    heads = groups.prunable(frozenset({"attention"}))
    require_held(groups, (*mlps, *heads), find_runtime("vllm"))
    require_held(groups, mlps, find_runtime("vllm"))
    with pytest.raises(UsageError, match=r"--for vllm: attention keeps the same count in every layer there"):
        require_held(groups, (*mlps, heads[0]), find_runtime("vllm"))
    odd = replace(STEPS, limits=(replace(STEPS.limits[0], of=mlps[0].units + 1),))
    with pytest.raises(UsageError, match=r"and is not cut, and there it must be a multiple of"):
        require_held(groups, heads, odd)
    with pytest.raises(UsageError, match="keeps the same count"):
        cut(find_runtime("vllm"), 0.8, kinds=("mlp", "attention"), protect=(1, 0))
