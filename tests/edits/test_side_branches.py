"""Side branches: what they compute, that a cut is masking when they compute something, what they leave alone."""

import random

import pytest
import torch
from torch import nn

from graphprune.analysis.analyse import analyze, analyze_axes
from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.edits.side_branches import SideBranch, branch_names, branch_off, pooling
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.rewriting.masked import Masked
from tests.support import oracle
from tests.support.families import families, graph, wide

LLAMA = pytest.mark.xdist_group("llama")
DOWN = "model.layers.0.mlp.down_proj.weight"


def learned(source: Graph, weights: list[str]) -> Graph:
    """The graph with branches of rank 3 that add something."""
    made = branch_off(source, weights, SideBranch(3))
    draw, tensors = torch.Generator().manual_seed(0), made.tensors()
    names = [name for weight in weights for name in branch_names(weight)]
    drawn = {n: torch.randn(tensors[n].shape, generator=draw, dtype=tensors[n].dtype) / 8 for n in names}
    return made.with_tensors({name: nn.Parameter(tensor) for name, tensor in drawn.items()})


def test_parts_are_of_neighbours_and_about_as_long() -> None:
    assert pooling(2, 5).tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert pooling(2, 8).sum(1).tolist() == [4, 4]
    assert pooling(3, 2).sum().item() == 2


@LLAMA
def test_a_branch_adds_its_product_to_what_the_call_gives() -> None:
    made = learned(graph("llama"), [DOWN])
    read, write = (made.tensors()[name] for name in branch_names(DOWN))
    assert (read.shape, write.shape) == ((3, 44), (32, 3))
    folded = graph("llama").with_tensors({DOWN: nn.Parameter(made.tensors()[DOWN] + write @ read)})
    inputs = oracle.example(made, oracle.SETTINGS[0])
    with torch.no_grad():
        for one, other in zip(made(*inputs), folded(*inputs), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# Grouped queries; fused projections, turned matrices and biases; parallel branches.
@pytest.mark.parametrize("name", families(("llama", "gpt2", "gpt_neox")))
def test_what_they_add_is_cut_as_the_rest_and_kinds_and_branches_stay(name: str) -> None:
    source = wide(name).graph
    made = learned(source, [call.weight for call in find_linear_calls(source)][:-1])
    analysis, rng = analyze_axes(made), random.Random(0)
    before, after = analyze(source), analysis.groups
    assert [b.id for b in after.branches] == [b.id for b in before.branches]
    assert {g.id: (g.kind, g.units) for g in before.groups}.items() <= {
        g.id: (g.kind, g.units) for g in after.groups
    }.items()
    ranks = [group for group in after.groups if group.id not in before.by_id()]
    assert {(group.kind, group.units) for group in ranks} == {("other", 3)}
    keep = {group.id: oracle.random_keep(group, rng) for group in after.prunable()}
    oracle.check_cut(made, analysis, Masked(made, analysis), Plan(keep, (after.branches[0].id,), "exact"), 1e-9)


@LLAMA
def test_what_is_no_linear_call_or_has_a_branch_is_refused() -> None:
    with pytest.raises(PlanError, match=r"embed_tokens.weight is not the weight of one linear call"):
        branch_off(graph("llama"), ["model.embed_tokens.weight"], SideBranch(2))
    once = branch_off(graph("llama"), [DOWN], SideBranch(2))
    with pytest.raises(PlanError, match=r"the model has a tensor .*down_proj_side_read.weight already"):
        branch_off(once, [DOWN], SideBranch(2))
    with pytest.raises(PlanError, match=r"side_read.weight is not the weight of one linear call"):
        branch_off(once, [branch_names(DOWN)[0]], SideBranch(2))
