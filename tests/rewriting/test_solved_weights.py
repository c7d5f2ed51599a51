"""Solved weights: what is written beside a plan gives the same model back, and nothing else is taken for it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from graphprune.budget.budgets import Budget
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Lineage
from graphprune.ir.plan import read_plan
from graphprune.passes.allocation.uniform import Uniform
from graphprune.passes.compensation.least_squares import LeastSquares
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.pruning.rounds import Request, prune
from graphprune.rewriting.solved_weights import PLAN, WEIGHTS, apply_solved, read_solved, write_solved
from tests.support.families import families, graph

BATCHES = tuple(torch.randint(3, 60, (4, 12), generator=torch.Generator().manual_seed(seed)) for seed in range(2))


def solved_graph(source: Graph, share: float = 0.7) -> Graph:
    budget = Budget(int(share * source.parameter_count()))
    request = Request(budget, Magnitude(), Uniform(), compensation=LeastSquares(consumers="all"))
    return prune(source, request, BATCHES).graph


@pytest.mark.parametrize("name", families(("llama", "gpt2")))
def test_a_plan_and_its_weights_give_the_model(name: str, tmp_path: Path) -> None:
    source = replace(graph(name), lineage=Lineage())
    made = solved_graph(source)
    write_solved(tmp_path, source, made)
    found = apply_solved(source, read_plan(tmp_path / PLAN), read_solved(tmp_path / PLAN))
    assert all(torch.equal(tensor, made.tensors()[name]) for name, tensor in found.tensors().items())
    assert {n for n, p in found.parameters().items() if p.requires_grad} == {
        n for n, p in made.parameters().items() if p.requires_grad
    }
    kept = load_file(tmp_path / WEIGHTS)
    assert 0 < len(kept) < len(made.tensors()), "embeddings are the source's own"
    assert sorted(path.name for path in tmp_path.iterdir()) == [PLAN, WEIGHTS]


@pytest.mark.xdist_group("llama")
def test_what_is_not_as_it_was_written_is_refused(tmp_path: Path) -> None:
    source = replace(graph("llama"), lineage=Lineage())
    write_solved(tmp_path, source, solved_graph(source))
    plan, text, weights = read_plan(tmp_path / PLAN), (tmp_path / PLAN).read_text(), load_file(tmp_path / WEIGHTS)
    solved = read_solved(tmp_path / PLAN)
    assert solved is not None
    other = source.with_tensors({n: torch.nn.Parameter(p.detach() + 1) for n, p in source.parameters().items()})
    with pytest.raises(PlanError, match="another model"):
        apply_solved(other, plan, solved)
    for wrong in ({"new.weight": torch.ones(2)}, {next(iter(weights)): torch.ones(2, 2)}):
        with pytest.raises(PlanError, match="does not fit"):
            apply_solved(source, plan, replace(solved, tensors=wrong))
    save_file({"a": torch.ones(2)}, tmp_path / WEIGHTS)
    with pytest.raises(PlanError, match="is not what"):
        read_solved(tmp_path / PLAN)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(PlanError, match="not beside it"):
        read_solved(tmp_path / PLAN)
    data = json.loads(text)
    (tmp_path / PLAN).write_text(json.dumps({**data, "weights": {"file": "../other.safetensors"}}))
    with pytest.raises(PlanError, match="another place"):
        read_solved(tmp_path / PLAN)
    del data["weights"]
    (tmp_path / PLAN).write_text(json.dumps(data))
    assert read_solved(tmp_path / PLAN) is None
