"""Candidates: a model put together from levels is the model that is truly cut, however it is run."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Lineage
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.pruning.blocks import find_blocks
from graphprune.pruning.interfaces import Scene, view
from graphprune.pruning.reconstruct import reconstruct
from graphprune.pruning.ridge import Ridge
from graphprune.pruning.search.candidates import Candidates
from graphprune.pruning.search.divergence import measure_dense, tokens_in
from graphprune.pruning.search.journal import Journal
from graphprune.pruning.search.library import LevelSolver, Library, library_key
from graphprune.pruning.search.problem import Grid, Problem, near_grid, whole_grid
from graphprune.pruning.selection import select
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import graph_inputs
from tests.support.families import families, graph

BATCHES = tuple(torch.randint(3, 60, (4, 12), generator=torch.Generator().manual_seed(seed)) for seed in range(4))


def problem_of(
    name: str, kinds: frozenset[str] = frozenset({"mlp", "attention", "residual"}), blocks: tuple[str, ...] = ()
) -> Problem:
    """All that may shrink, scored by magnitude; the residual width is set to three quarters."""
    source = replace(graph(name), lineage=Lineage())
    groups = analyze(source)
    scene: Scene = view(source, groups.prunable(kinds), BATCHES)
    scores, dropped = Magnitude().score(scene), find_blocks(groups, blocks)
    return Problem(
        replace(scene, candidates=(*scene.candidates, *dropped)), {**scores, **{b.id: torch.ones(1) for b in dropped}}
    )


def expected_of(problem: Problem) -> dict[str, int]:
    return {g.id: max(g.least, 1, 3 * g.units // 4) for g in problem.scene.candidates}


def judge_of(problem: Problem, grid: Grid, folder: Path, carry: bool = True) -> tuple[Candidates, Graph]:
    dense = problem.scene.graph
    start = apply(dense, select(problem.scene.groups, grid.fixed, problem.scores))
    parts = grid.parts(start, grid.at(grid.genes(expected_of(problem))))
    levels = {part.call.weight: part.levels for part in parts}
    library = Library(folder / library_key(start.tensors(), BATCHES[1:], levels, ""))
    solver = LevelSolver(library, levels, Ridge(0.01))
    solved = reconstruct(dense, start, find_linear_calls(start), solver, BATCHES[1:], sequential=carry)
    close, glance = (replace(measure_dense(dense, b), graph=solved) for b in (BATCHES[:2], BATCHES[:1]))
    return Candidates(start, solved, library, parts, grid.blocks, glance, close, Journal(None)), solved


@pytest.mark.parametrize("name", families(("llama", "gpt2", "qwen3", "gpt_neox")))
def test_a_candidate_is_the_model_that_is_cut(name: str, tmp_path: Path) -> None:
    problem = problem_of(name)
    grid = near_grid(problem, expected_of(problem), 1 / 8)
    assert len(grid.places) >= 2
    judge, solved = judge_of(problem, grid, tmp_path)
    chance, measured = Random(0), measure_dense(problem.scene.graph, BATCHES[:2])
    for _ in range(3):
        genes = tuple(chance.randrange(len(counts)) for counts in grid.counts.values())
        counts = {id: n for id, n in grid.at(genes).items() if id not in grid.fixed}
        cut = apply(solved, select(analyze(solved), counts, problem.scores))
        true, old = cut.with_tensors(weights := level_weights(judge, genes, cut)), cut.tensors()
        assert all(weight.shape == old[name].shape for name, weight in weights.items())
        with torch.no_grad():
            wanted = sum(measured(true(*graph_inputs(true, ids)), index) for index, ids in enumerate(BATCHES[:2]))
        assert judge(genes, True) == pytest.approx(wanted / tokens_in(BATCHES[:2]), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", families(("llama", "gpt2", "gpt_neox")))
@pytest.mark.parametrize("kind", ["blocks", "layers"])
def test_a_candidate_without_a_block_is_the_model_that_lacks_it(name: str, kind: str, tmp_path: Path) -> None:
    problem = problem_of(name, frozenset({"mlp"}), (kind,))
    grid = whole_grid(problem, expected_of(problem), 1 / 2)
    assert not set(problem.all_blocks) & set(grid.fixed)
    judge, solved = judge_of(problem, grid, tmp_path)
    groups, measured = analyze(solved), measure_dense(problem.scene.graph, BATCHES[:2])
    full = tuple(len(counts) - 1 for counts in grid.counts.values())
    for gene, ids in grid.blocks.items():
        genes = (*full[:gene], 0, *full[gene + 1 :])
        dropped = apply(solved, select(groups, dict.fromkeys(ids, 0), {}))
        true = dropped.with_tensors(level_weights(judge, genes, dropped))
        with torch.no_grad():
            wanted = sum(measured(true(*graph_inputs(true, ids)), index) for index, ids in enumerate(BATCHES[:2]))
        assert judge(genes, True) == pytest.approx(wanted / tokens_in(BATCHES[:2]), rel=1e-4, abs=1e-7)
    plain = judge(full, False)
    judge.journal = Journal(None)
    judge(full, True)  # the best so far, from which the next are run
    some = (*full[: len(grid.blocks) - 1], 0, *full[len(grid.blocks) :])
    assert judge(full, False) == pytest.approx(plain, rel=1e-6)
    near, judge.settled, judge.best, judge.journal = judge(some, False), None, None, Journal(None)
    assert judge(some, False) == pytest.approx(near, rel=1e-6)


def level_weights(judge: Candidates, genes: tuple[int, ...], cut: Graph) -> dict[str, torch.nn.Parameter]:
    """The weights and biases that the calls of a graph have at these genes, over the inputs that stay."""
    found: dict[str, torch.Tensor] = {}
    for part in judge.parts:
        if part.call.weight not in cut.tensors():
            continue
        level = judge.library.read(part.call.weight, part.counts[genes[part.gene]])
        found[part.call.weight] = part.call.matrix(level.weight)
        if part.call.bias is not None and level.shift is not None:
            found[part.call.bias] = (judge.start[part.call.bias].double() + level.shift).to(level.weight.dtype)
    return {name: torch.nn.Parameter(each.contiguous()) for name, each in found.items()}


@pytest.mark.parametrize("name", families(("llama", "gpt2")))
def test_a_glance_from_the_settled_genes_is_a_glance_from_the_start(name: str, tmp_path: Path) -> None:
    problem = problem_of(name)
    grid = near_grid(problem, expected_of(problem), 1 / 8)
    judge, _ = judge_of(problem, grid, tmp_path)
    chance = Random(1)
    each = [tuple(chance.randrange(len(counts)) for counts in grid.counts.values()) for _ in range(5)]
    plain = [judge(genes, False) for genes in each]
    assert judge.settled is None
    judge.journal = Journal(None)
    judge(each[0], True)
    assert [judge(genes, False) for genes in each] == pytest.approx(plain, rel=1e-6)
    assert judge.settled == each[0]


@pytest.mark.xdist_group("llama")
def test_the_dense_model_is_no_way_off(tmp_path: Path) -> None:
    source = graph("llama")
    dense = measure_dense(source, BATCHES[:1])
    with torch.no_grad():
        values = source(*graph_inputs(source, BATCHES[0]))
    assert dense(values, 0) == pytest.approx(0.0, abs=1e-4)
    worse = tuple(value + torch.randn_like(value) if value.is_floating_point() else value for value in values)
    assert dense(worse, 0) > 0.01
