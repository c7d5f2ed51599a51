"""Evolve: the budget is met, a run that was stopped goes on to the same, and what is searched is no worse."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from graphprune.budget.budgets import Budget
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Lineage
from graphprune.passes.allocation import evolve
from graphprune.passes.allocation.evolve import Evolve, split
from graphprune.passes.compensation.least_squares import LeastSquares
from graphprune.passes.importance.obs import Obs
from graphprune.pruning.interfaces import view
from graphprune.pruning.rounds import Pruned, Request, Surroundings, prune
from graphprune.rewriting.apply import apply
from graphprune.spec import parse_spec
from tests.support.families import families, graph

_rows = torch.randint(3, 60, (32, 12), generator=torch.Generator().manual_seed(0))
BATCHES = tuple(_rows.split(4))


def run(name: str, share: float, kinds: tuple[str, ...], folder: Path | None = None, **options: object) -> Pruned:
    source = graph(name)
    request = Request(
        Budget(int(share * source.parameter_count())),
        Obs(),
        Evolve(**options),  # type: ignore[arg-type]
        kinds,
        compensation=LeastSquares(consumers="all"),
        floor=0.1,
    )
    return prune(source, request, BATCHES, Surroundings(folder=folder))


def widths(pruned: Pruned) -> Mapping[str, tuple[int, ...]]:
    return pruned.plan.keep


@pytest.mark.parametrize("name", families(("llama", "gpt2", "qwen3")))
@pytest.mark.parametrize("kinds", [("mlp", "attention"), ("mlp", "attention", "residual")])
def test_the_target_is_met(name: str, kinds: tuple[str, ...]) -> None:
    source = graph(name)
    found = run(name, 0.75, kinds)
    target = int(0.75 * source.parameter_count())
    assert target * 0.97 < found.graph.parameter_count() <= target
    assert any("judged" in note for note in found.notes)


@pytest.mark.parametrize("name", families(("llama", "gpt2")))
@pytest.mark.parametrize("kind", ["blocks", "layers"])
@pytest.mark.parametrize("effort", ["quick", "thorough"])
def test_blocks_are_searched_with_widths(name: str, kind: str, effort: str) -> None:
    source = graph(name)
    found, target = run(name, 0.6, ("mlp", "attention", kind), effort=effort), int(0.6 * source.parameter_count())
    assert target * 0.95 < found.graph.parameter_count() <= target
    cut = apply(replace(source, lineage=Lineage()), found.plan)
    assert cut.parameter_count() == found.graph.parameter_count()
    assert any("judged" in note for note in found.notes)


@pytest.mark.xdist_group("llama")
def test_a_stopped_search_goes_on_to_the_same(tmp_path: Path) -> None:
    kinds = ("mlp", "attention")
    whole = run("llama", 0.7, kinds, tmp_path / "whole")
    log = tmp_path / "whole" / "search.jsonl"
    lines = log.read_text().splitlines()
    half = tmp_path / "half"
    half.mkdir()
    (half / "search.jsonl").write_text("\n".join(lines[: len(lines) // 2]) + "\n" + lines[-1][:10])
    again = run("llama", 0.7, kinds, half)
    assert widths(again) == widths(whole)
    assert same(again.graph, whole.graph)
    assert (half / "search.jsonl").read_text() == log.read_text()
    assert same(run("llama", 0.7, kinds, None).graph, whole.graph)


@pytest.mark.parametrize("name", families(("llama", "gpt2")))
def test_the_model_is_what_its_plan_and_least_squares_give(name: str) -> None:
    found, source = run(name, 0.7, ("mlp", "attention", "residual")), replace(graph(name), lineage=Lineage())
    cut = apply(source, found.plan)
    assert same(LeastSquares(consumers="all").compensate(source, cut, view(source, None, BATCHES)), found.graph)


def same(left: Graph, right: Graph) -> bool:
    return all(torch.equal(tensor, right.tensors()[name]) for name, tensor in left.tensors().items())


@pytest.mark.xdist_group("llama")
@pytest.mark.parametrize(("share", "carry"), [(0.9, False), (0.5, True)])
def test_levels_carry_errors_where_much_is_cut(
    share: float, carry: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evolve, "_CALM", 0.5)  # of the two layers there are

    def libraries(**options: object) -> set[str]:
        folder = tmp_path / str(options.get("carry"))
        run("llama", share, ("mlp", "attention"), search=False, library=str(folder), **options)
        return {path.name for path in folder.iterdir()}

    assert libraries() == libraries(carry=carry)
    assert libraries() != libraries(carry=not carry)


@pytest.mark.xdist_group("llama")
def test_layers_are_measured_once_for_all_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*_: object) -> NoReturn:
        raise AssertionError("layers are measured again")

    alone = run("llama", 0.8, ("mlp", "attention"), effort="quick")
    run("llama", 0.7, ("mlp", "attention"), tmp_path, effort="quick")
    monkeypatch.setattr(evolve.Adaptive, "rates", again)
    assert same(run("llama", 0.8, ("mlp", "attention"), tmp_path, effort="quick").graph, alone.graph)


class NoSolver:
    work = torch.float32

    def __call__(self, *_: object) -> NoReturn:
        raise AssertionError("something is solved again")


@pytest.mark.xdist_group("llama")
def test_levels_are_used_again_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of the library is solved again."""
    first = run("llama", 0.7, ("mlp",), tmp_path / "one", library=str(tmp_path / "levels"))
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "levels").rglob("*.safetensors")}
    assert {path.parent.name for path in made} >= {"calls"}, "calls without levels are kept, too"
    monkeypatch.setattr(evolve, "Ridge", lambda *_: NoSolver())
    second = run("llama", 0.7, ("mlp",), tmp_path / "two", library=str(tmp_path / "levels"))
    assert same(first.graph, second.graph)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "levels").rglob("*.safetensors")} == made


def test_the_three_texts() -> None:
    texts = split(BATCHES, 0.5)
    assert sum(map(len, texts.close)) == 8
    assert sum(map(len, texts.glance)) == 4
    assert sum(map(len, split(_rows.split(2), 0.25).glance)) == 2
    assert [id(batch) for batch in (*texts.close, *texts.solved)] == [id(batch) for batch in BATCHES]
    assert split(BATCHES[:1], 0.5) == (BATCHES[:1],) * 3
    long = tuple(torch.zeros(2, 1024, dtype=torch.long) for _ in range(32))
    assert sum(batch.numel() for batch in split(long, 0.5).close) == 4096, "a quarter would be 16,384 tokens"
    assert sum(batch.numel() for batch in split(long, 0.5).solved) == 60 * 1024


@pytest.mark.xdist_group("llama")
def test_text_is_needed() -> None:
    scene = view(graph("llama"))
    with pytest.raises(UsageError, match="--data"):
        Evolve().keep(scene, {})


def test_a_library_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="a folder that it can write"):
        Evolve(library=str(tmp_path / "file"))
    with pytest.raises(UsageError, match="a folder that it can write"):
        Evolve(library=str(tmp_path / "file" / "below"))
    assert Evolve(library=str(tmp_path / "new" / "below")).library
    with pytest.raises(UsageError, match="quick or normal or thorough"):
        parse_spec("allocation", "evolve{effort=long}")
