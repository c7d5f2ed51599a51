"""Self-Pruner: the budget is met, a planted dead layer gives up all it may, and nothing is worse than even rates."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.budget.budgets import Budget
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.passes.allocation import self_pruner
from graphprune.passes.allocation.self_pruner import Layers, SelfPruner
from graphprune.passes.importance.wanda import Wanda
from graphprune.pruning.interfaces import view
from graphprune.pruning.rounds import Pruned, Request, Surroundings, prune
from graphprune.running.inputs import Batch, run_batch
from graphprune.running.loss import Loss, batch_loss
from graphprune.spec import parse_spec
from tests.support.families import families, graph
from tests.support.tiny_language import save_model

_rows = torch.randint(3, 60, (16, 12), generator=torch.Generator().manual_seed(0))
BATCHES = tuple(_rows.split(4))
SMALL = {"population": 8, "generations": 4, "children": 6, "tokens": 96}
KINDS = ("mlp", "attention")


def run(source: Graph, share: float, loss: Loss | None = None, folder: Path | None = None, **options: object) -> Pruned:
    allocation = SelfPruner(**{**SMALL, **options})  # type: ignore[arg-type]
    request = Request(Budget(int(share * source.parameter_count())), Wanda(), allocation, KINDS)
    return prune(source, request, BATCHES, Surroundings(loss=loss, folder=folder))


def told(pruned: Pruned) -> tuple[float, float]:
    """The losses that the note gives: of the best, and of even rates."""
    note = next(note for note in pruned.notes if "judged" in note)
    found = re.search(r"a loss of ([\d.]+) on the text it was searched on, even rates ([\d.]+)", note)
    assert found is not None
    return float(found[1]), float(found[2])


@pytest.mark.parametrize("name", families(("llama", "gpt2", "qwen3", "mixtral")))
def test_the_target_is_met_and_what_is_found_is_no_worse_than_even_rates(name: str) -> None:
    source = graph(name)
    found = run(source, 0.8)
    target = int(0.8 * source.parameter_count())
    assert target * 0.96 < found.graph.parameter_count() <= target
    best, even = told(found)
    assert best <= even


@pytest.mark.xdist_group("llama")
def test_the_loss_that_was_searched_on_is_that_of_the_cut() -> None:
    found = run(graph("llama"), 0.75)
    with torch.no_grad():
        loss = float(sum(batch_loss(found.graph, batch) for batch in BATCHES[:2])) / 2
    assert told(found)[0] == pytest.approx(loss, abs=2e-4)


@pytest.mark.xdist_group("llama")
def test_a_dead_layer_gives_up_all_it_may() -> None:
    """What its branches add is next to nothing, so its units cost nothing of how near the model is to the source."""
    source = graph("llama")
    dead = {
        name: torch.nn.Parameter(tensor.detach() * 1e-3)
        for name, tensor in source.parameters().items()
        if name.startswith("model.layers.0.") and name.endswith(("o_proj.weight", "down_proj.weight"))
    }
    assert len(dead) == 2
    planted = source.with_tensors(dead)

    def distance(outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        return (outputs[0] - run_batch(planted, batch)[0]).square().mean()

    found = run(planted, 0.75, distance, generations=10)
    groups = analyze(source).by_id()
    share = {id: len(units) / groups[id].units for id, units in found.plan.keep.items() if groups[id].kind == "mlp"}
    first, second = (f"model.layers.{layer}.mlp.gate_proj.weight:0" for layer in range(2))
    assert share[first] < 0.45 < 0.8 < share.get(second, 1.0)


@pytest.mark.xdist_group("llama")
def test_a_stopped_search_goes_on_to_the_same(tmp_path: Path) -> None:
    whole = run(graph("llama"), 0.75, folder=tmp_path)
    log = next(tmp_path.rglob("self-pruner-*.jsonl"))
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[: len(lines) // 2]) + '{"mask": "half')
    again = run(graph("llama"), 0.75, folder=tmp_path)
    assert again.plan == whole.plan
    assert sorted(log.read_text().splitlines(keepends=True)) == sorted(lines)


@pytest.mark.xdist_group("llama")
def test_progress_is_what_was_judged_of_all() -> None:
    source, told = graph("llama"), list[tuple[int, int]]()
    groups = [group for group in analyze(source).prunable() if group.kind in KINDS]
    scene = view(source, groups, BATCHES, budget=Budget(int(0.8 * source.parameter_count())))
    scene = replace(scene, progress=lambda *entry: told.append(entry))
    SelfPruner(**SMALL).keep(scene, {group.id: torch.rand(group.units) for group in groups})
    assert told == [(0, 32), (8, 32), (14, 32), (20, 32), (26, 32), (32, 32)]


@pytest.mark.xdist_group("llama")
def test_any_rates_fill_the_budget() -> None:
    source = graph("llama")
    groups = [group for group in analyze(source).prunable() if group.kind in KINDS]
    budget = Budget(int(0.8 * source.parameter_count()))
    scene = view(source, groups, BATCHES, budget=budget)
    problem = Layers(scene, {group.id: torch.rand(group.units) for group in groups})
    assert 0 < problem.mean.share < 1
    assert set(problem.layer_of) == {group.id for group in groups}
    for rates in ((0.9, 0.3), (0.3, 0.9), (0.5, 0.5)):
        counts = problem.counts(rates)
        left = scene.groups.costs.parameters({**scene.groups.sizes(), **counts})
        assert 0.96 * budget.target < left <= budget.target
        mask = problem.mask(rates)
        assert {id: int(units.sum()) for id, units in mask.items()} == counts


@pytest.mark.xdist_group("llama")
def test_a_language_model_proposes_and_what_it_cannot_is_counted(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "proposer")
    found = run(graph("llama"), 0.8, proposer=str(folder), generations=2, children=3)
    assert any("of 6 answers of proposer, 6 were no list of rates" in note for note in found.notes)
    best, even = told(found)
    assert best <= even


@pytest.mark.xdist_group("llama")
def test_what_a_language_model_wrote_is_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the answers are garbage; rates that are written are searched on, and a stop asks nothing anew."""
    asked = list[int]()

    def write(text: str, tokens: int, number: int, /) -> str:
        asked.append(number)
        return "[0.9," if number % 3 == 0 else f"[{0.9 - number / 20:.2f}, 0.8]"

    monkeypatch.setattr(self_pruner, "open_endpoint", lambda *arguments: write)
    options = {"proposer": "http://127.0.0.1:9/v1", "model": "clerk", "generations": 2, "children": 3}
    whole = run(graph("llama"), 0.8, folder=tmp_path, **options)
    assert any("of 6 answers of clerk, 2 were no list of rates" in note for note in whole.notes)
    assert asked == list(range(6))
    shown = whole.graph.memo["self-pruner"]["answers"]
    assert [answer for _, answer in shown] == ["[0.80, 0.8]", "[0.9,", "[0.70, 0.8]", "[0.65, 0.8]"]
    assert all(question.endswith(": [") for question, _ in shown)
    again = run(graph("llama"), 0.8, folder=tmp_path, **options)
    assert (again.plan, asked) == (whole.plan, list(range(6)))


def test_a_proposer_that_is_none_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for spec in ("self-pruner{proposer=https://host/v1}", f"self-pruner{{proposer={tmp_path}}}"):
        with pytest.raises(UsageError, match="the proposer"):
            parse_spec("allocation", spec)


def test_without_text_it_says_what_it_needs() -> None:
    with pytest.raises(UsageError, match="judges models on calibration text"):
        SelfPruner().keep(view(graph("llama")), {})
    assert parse_spec("allocation", "self-pruner{generations=3}") == SelfPruner(generations=3)
