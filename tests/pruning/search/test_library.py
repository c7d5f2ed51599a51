"""The level library: each level is the least-squares solution over what stays; two halves are one whole."""

from pathlib import Path

import pytest
import torch

from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.pruning.activations.moments import read
from graphprune.pruning.reconstruct import Solution, Target
from graphprune.pruning.ridge import Ridge
from graphprune.pruning.search.library import Levels, LevelSolver, Library, library_key, solve_level, spread
from graphprune.pruning.search.problem import near_grid
from tests.pruning.search.test_candidates import BATCHES, expected_of, judge_of, problem_of


def test_a_level_is_least_squares_over_what_stays() -> None:
    chance = torch.Generator().manual_seed(0)
    x, y = (torch.randn(40, n, generator=chance, dtype=torch.float64) for n in (6, 3))
    weight, kept = torch.zeros(3, 6, dtype=torch.float64), torch.tensor([0, 2, 5])
    seen = read([x], [40], "w")
    moment, mean = seen.cross([y], 3)
    found = solve_level(Ridge(0.0), seen, weight, [Target(slice(0, 3), moment, mean)], kept, False)
    counts = torch.diag(seen.weights[0].sqrt())
    wanted = torch.linalg.lstsq(counts @ x[:, kept], counts @ y).solution.T
    torch.testing.assert_close(found.weight, wanted, rtol=1e-5, atol=1e-6)
    wide = spread(found.weight, kept, weight)
    assert torch.equal(wide[:, kept], found.weight)
    assert not bool(wide[:, [1, 3, 4]].any())


def test_levels_are_kept_whole(tmp_path: Path) -> None:
    library = Library(tmp_path / "new")
    assert not library.holds("a.weight")
    level = Solution(torch.ones(2, 1), torch.zeros(2, dtype=torch.float64))
    library.write("a.weight", {1: level, 2: Solution(torch.ones(2, 2))})
    assert library.holds("a.weight")
    assert [path.name for path in library.folder.iterdir()] == ["a.weight.safetensors"]
    assert library.read("a.weight", 2).shift is None
    found = library.read("a.weight", 1).shift
    assert found is not None
    assert torch.equal(found, torch.zeros(2, dtype=torch.float64))


@pytest.mark.xdist_group("llama")
def test_two_halves_made_one_after_the_other_are_one_library(tmp_path: Path) -> None:
    problem = problem_of("llama")
    grid = near_grid(problem, expected_of(problem), 1 / 4)
    whole, first = judge_of(problem, grid, tmp_path / "whole")
    names = sorted(path.name for path in whole.library.folder.iterdir())
    half = tmp_path / "half" / whole.library.folder.name
    half.mkdir(parents=True)
    for name in names[::2]:
        (half / name).write_bytes((whole.library.folder / name).read_bytes())
    again, second = judge_of(problem, grid, tmp_path / "half")
    assert again.library.folder == half
    assert sorted(path.name for path in half.iterdir()) == names
    assert all((half / name).read_bytes() == (whole.library.folder / name).read_bytes() for name in names)
    assert all(torch.equal(t, second.tensors()[name]) for name, t in first.tensors().items())


@pytest.mark.xdist_group("llama")
def test_other_weights_text_or_levels_are_another_library() -> None:
    levels = {"w": Levels({1: torch.tensor([0]), 2: torch.tensor([0, 1])}, 1)}
    tensors = {"w": torch.ones(2, 2)}
    keys = {
        library_key(tensors, BATCHES, levels, ""),
        library_key({"w": torch.zeros(2, 2)}, BATCHES, levels, ""),
        library_key(tensors, BATCHES[1:], levels, ""),
        library_key(tensors, [{"x": BATCHES[0]}], levels, ""),
        library_key(tensors, BATCHES, {"w": Levels(levels["w"].kept, 2)}, ""),
        library_key(tensors, BATCHES, levels, "carry=False"),
    }
    assert len(keys) == 6
    assert library_key(tensors, BATCHES, levels, "") in keys


def test_calls_without_levels_are_solved_as_usual(tmp_path: Path) -> None:
    solver = LevelSolver(Library(tmp_path), {}, Ridge(0.01, torch.float32))
    assert solver.work is torch.float32
    assert find_linear_calls(problem_of("llama").scene.graph)
    x = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = read([x], [30], "w")
    moment, mean = seen.cross([x[:, :2]], 2)
    one, other = (
        each(seen, torch.ones(2, 4), iter([Target(slice(0, 2), moment, mean)]), False)
        for each in (solver, Ridge(0.01, torch.float32))
    )
    assert torch.equal(one.weight, other.weight)
    assert not list(tmp_path.iterdir())
