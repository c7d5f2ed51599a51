"""Bound units: those that one group of a pattern reads stay or go together, whatever the slots look like."""

from dataclasses import replace

import numpy
import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Group, Slot
from graphprune.errors import PlanError
from graphprune.ir.plan import Plan
from graphprune.passes.transforms.prune import Prune
from graphprune.passes.transforms.sparsify import Sparsify
from graphprune.pipeline.passes import Context, run_passes
from graphprune.pruning.sparsity.bound_units import bind_units, bound, bound_parts, pool_scores
from graphprune.rewriting.apply import apply
from graphprune.weights.patterns import broken_groups, kept_entries
from tests.support.families import families, graph

SIZES = {("w", 1): 4}


def group(owner: list[int], units: int) -> Group:
    return Group("g", units, (Slot("w", 1, numpy.array(owner)),), (), "mlp", "", None, False, None)


def test_units_of_one_group_go_together_and_whole_heads_are_free() -> None:
    assert bound_parts(group(list(range(8)), 8), SIZES).tolist() == [0] * 4 + [1] * 4  # type: ignore[union-attr]
    heads = group([0] * 8 + [1] * 8, 2)
    assert bound(heads, SIZES).multiple == 1
    pairs = group([i // 6 for i in range(24)], 4)  # heads of 6: every second group of four has two of them
    assert bound(pairs, SIZES).multiple == 2
    assert bound_parts(group(list(range(8)), 8), {("w", 0): 4}) is None


def test_units_bound_unevenly_or_to_what_stays_are_never_cut() -> None:
    uneven = group([0, 0, 1, 1, 2, 2, 2, 2], 3)
    assert "do not share evenly" in str(bound(uneven, SIZES).locked)
    stuck = group([0, 1, 2, -1, 3, 4, 5, 6], 7)
    assert bound(stuck, SIZES).multiple == 7


@pytest.mark.parametrize("name", families(("llama", "gpt2")))
def test_what_is_sparse_is_cut_in_whole_groups_and_stays_sparse(name: str) -> None:
    source = graph(name)
    sparse = run_passes(source, [Sparsify(pattern="2:4", method="magnitude")])
    prune = Prune(target="60%", importance="magnitude", kinds=("mlp", "attention", "residual"))
    cut = run_passes(sparse, [prune], Context(source=sparse))
    assert cut.parameter_count() < 0.62 * source.parameter_count()
    assert not list(broken_groups(cut.companions))
    own, kept = cut.parameters(), kept_entries(cut.companions)
    assert kept
    for weight, mask in kept.items():
        assert torch.equal(own[weight] != 0, mask)


@pytest.mark.xdist_group("llama")
def test_a_plan_through_groups_is_refused_by_name() -> None:
    sparse = run_passes(graph("llama"), [Sparsify(pattern="2:4", method="magnitude")])
    groups = bind_units(sparse, analyze(sparse))
    mlp = next(g for g in groups.groups if g.kind == "mlp")
    assert mlp.multiple == 4
    with pytest.raises(PlanError, match=r"down_proj.weight within groups of 4 inputs, .* not be 2:4 any more"):
        apply(sparse, Plan({mlp.id: tuple(range(1, mlp.units))}))
    scores = {mlp.id: torch.arange(mlp.units, dtype=torch.float32)}
    pooled = pool_scores(sparse, [mlp], scores)[mlp.id]
    assert pooled[:8].tolist() == [1.5] * 4 + [5.5] * 4
    assert pool_scores(graph("llama"), [mlp], scores)[mlp.id] is scores[mlp.id]
    dense = replace(sparse, companions={})
    assert apply(dense, Plan({mlp.id: tuple(range(1, mlp.units))}))
