"""The sparsify pass: exact zeros on every kind of model, errors carried, kills, what it goes with and refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.passes.compensation.least_squares import LeastSquares
from graphprune.passes.transforms.prune import Prune
from graphprune.passes.transforms.sparsify import Sparsify
from graphprune.pipeline.passes import Context, run_passes
from graphprune.pruning.interfaces import view
from graphprune.pruning.reconstruct import Solution
from graphprune.pruning.sparsity.solutions import SolutionFolder
from graphprune.pruning.sparsity.solving import PatternSolver
from graphprune.running.inputs import decoder_inputs
from graphprune.weights.patterns import kept_entries
from tests.support.families import families, graph

BATCHES = tuple(torch.randint(3, 60, (4, 12), generator=torch.Generator().manual_seed(seed)) for seed in range(4))
GIVEN = Context(calibration=BATCHES)


def sparse(source: Graph, context: Context = GIVEN, **options: Any) -> Graph:
    return run_passes(source, [Sparsify(**options)], context)


def equal(one: Graph, other: Graph) -> bool:
    left, right = one.parameters(), other.parameters()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def distance(model: Graph, to: Graph) -> float:
    with torch.no_grad():
        found = [
            (model(*decoder_inputs(model, ids))[0] - to(*decoder_inputs(to, ids))[0]).square().mean() for ids in BATCHES
        ]
    return float(torch.stack(found).sum())


@pytest.mark.parametrize("name", families(("llama", "gpt2")))
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "fista", "least-squares", "alternating"])
def test_every_method_gives_exact_zeros_that_say_what_is_kept(name: str, method: str) -> None:
    source = graph(name)
    for pattern in ("50%", "2:4"):
        found = sparse(source, pattern=pattern, method=method)
        own = found.parameters()
        for weight, kept in kept_entries(found.companions).items():
            assert torch.equal(own[weight] != 0, kept)
            inputs = kept.T if name == "gpt2" else kept  # its weights are [inputs, outputs]
            if pattern == "2:4":
                assert (inputs.unflatten(1, (-1, 4)).sum(-1) <= 2).all()
            else:
                assert abs(int(kept.sum()) - kept.numel() // 2) <= (len(kept) if method == "wanda" else 1)
        untouched = set(own) - set(kept_entries(found.companions))
        assert all(torch.equal(own[each], source.parameters()[each]) for each in untouched)


@pytest.mark.parametrize("name", families(("mixtral", "falcon_h1")))
def test_experts_and_recurrent_layers_run_through(name: str) -> None:
    found = sparse(graph(name))
    assert kept_entries(found.companions)
    assert any("experts." in note for note in found.notes) == (name == "mixtral")


@pytest.mark.xdist_group("llama")
def test_errors_fall_from_wanda_over_fista_to_ours() -> None:
    source = graph("llama")
    found = {
        method: distance(sparse(source, pattern="2:4", method=method), source)
        for method in ("magnitude", "wanda", "sparsegpt", "fista", "alternating")
    }
    assert found["alternating"] < found["fista"] < found["wanda"]


@pytest.mark.xdist_group("llama")
def test_layers_by_themselves_do_not_hang_on_others_and_correction_within_them_helps() -> None:
    source = graph("llama")
    whole = sparse(source, method="fista")
    second = sparse(source, method="fista", scope=r"layers\.1\.").parameters()
    assert all(torch.equal(w, second[n]) for n, w in whole.parameters().items() if "layers.1." in n)
    first = sparse(source, method="fista", scope=r"layers\.0\.").parameters()
    assert all(torch.equal(w, first[n]) for n, w in whole.parameters().items() if "layers.0." in n)
    for_layers = [distance(sparse(source, method="fista", errors=errors), source) for errors in ("layer", "none")]
    assert for_layers[0] < for_layers[1]


@pytest.mark.xdist_group("llama")
def test_what_was_solved_before_a_kill_is_not_solved_again_and_the_bits_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, solved = graph("llama"), list[Tensor]()
    whole = sparse(source)
    solve = PatternSolver.solve

    def stop(solver: PatternSolver, problem: Any) -> Tensor:
        if len(solved) == 6:
            raise KeyboardInterrupt
        solved.append(solve(solver, problem))
        return solved[-1]

    monkeypatch.setattr(PatternSolver, "solve", stop)
    (tmp_path / "run").mkdir()
    context = replace(GIVEN, folder=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        sparse(source, context)

    def go_on(solver: PatternSolver, problem: Any) -> Tensor:
        solved.append(solve(solver, problem))
        return solved[-1]

    monkeypatch.setattr(PatternSolver, "solve", go_on)
    assert equal(sparse(source, context), whole)
    assert len(solved) == 14  # weights: 6 before the kill, 8 after it
    folder = SolutionFolder(tmp_path / "one")
    assert folder.read("w") is None
    folder.write("w", Solution(solved[0]))
    assert torch.equal(folder.read("w").weight, solved[0])  # type: ignore[union-attr]


@pytest.mark.xdist_group("llama")
def test_least_squares_after_it_keeps_zeros_and_lowers_the_error() -> None:
    source = graph("llama")
    given = sparse(source, pattern="2:4", method="wanda")
    dense, scene = replace(source, companions={}), view(source, None, BATCHES)
    found = LeastSquares(consumers="all", damping=0.0).compensate(dense, given, scene)
    assert all(not found.parameters()[n][~kept].any() for n, kept in kept_entries(given.companions).items())
    assert not equal(found, given)
    assert distance(found, source) < distance(given, source)


@pytest.mark.parametrize("name", families(("llama", "gpt2")))
@pytest.mark.parametrize("first", ["prune", "sparsify"])
def test_it_goes_with_pruning_in_either_order(name: str, first: str) -> None:
    source = graph(name)
    prune = Prune(target="75%", importance="magnitude", compensation="least-squares", round_to=4)
    passes = [prune, Sparsify(pattern="2:4")] if first == "prune" else [Sparsify(pattern="2:4"), prune]
    found = run_passes(source, passes, replace(GIVEN, source=source))
    assert found.parameter_count() < 0.78 * source.parameter_count()
    kept = kept_entries(found.companions)
    assert kept.keys() == {c.weight for c in find_linear_calls(found)} - {"lm_head.weight"}
    assert all(not found.parameters()[n][~each].any() for n, each in kept.items())


@pytest.mark.xdist_group("llama")
def test_bad_options_and_dead_inputs() -> None:
    for options, told in (
        ({"pattern": "4:2"}, "a pattern is a share of zeros"),
        ({"scope": "("}, "regular expressions"),
        ({"method": "best"}, "sparsify takes method="),
        ({"xi": 2.0}, "xi of sparsify is from 0 to 1"),
    ):
        with pytest.raises(UsageError, match=told):
            Sparsify(**options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="looks at text; give --data, or method=magnitude"):
        sparse(graph("llama"), Context(calibration=()), method="wanda")
    source = graph("llama")
    up = {n: p.detach().clone() for n, p in source.parameters().items() if "up_proj" in n}
    for weight in up.values():
        weight[5] = 0  # so the channel is always 0, and what reads it sees nothing there
    dead = source.with_tensors({n: torch.nn.Parameter(w) for n, w in up.items()})
    for method in ("wanda", "sparsegpt", "fista", "alternating"):
        found = sparse(dead, method=method).parameters()
        assert all(not w[:, 5].any() for n, w in found.items() if "down_proj" in n)
