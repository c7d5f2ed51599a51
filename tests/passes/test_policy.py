"""The policy importance: budgets are met, what does not matter goes, a stopped search goes on to the same bits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.budget.budgets import Budget
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.passes.allocation.global_ import Global
from graphprune.passes.importance.policy import Policy
from graphprune.passes.importance.wanda import Wanda
from graphprune.pruning.interfaces import view
from graphprune.pruning.rounds import Pruned, Request, Surroundings, prune
from graphprune.running.inputs import Batch, run_batch
from graphprune.running.loss import Loss
from graphprune.spec import parse_spec, print_spec
from tests.support.families import families, graph

_rows = torch.randint(3, 60, (16, 12), generator=torch.Generator().manual_seed(0))
BATCHES = tuple(_rows.split(4))
KINDS = ("mlp", "attention")
LLAMA = pytest.mark.xdist_group("llama")


def run(
    source: Graph,
    share: float,
    loss: Loss | None = None,
    folder: Path | None = None,
    kinds: tuple[str, ...] = KINDS,
    **options: object,
) -> Pruned:
    importance = Policy(**{"steps": 40, "init": "wanda", **options})  # type: ignore[arg-type]
    request = Request(Budget(int(share * source.parameter_count())), importance, Global("unit", "none"), kinds)
    return prune(source, request, BATCHES, Surroundings(loss=loss, folder=folder))


@pytest.mark.parametrize("name", families(("llama", "gpt2", "mixtral")))
@pytest.mark.parametrize("kinds", [KINDS, ("mlp", "attention", "residual"), ("blocks",)], ids=lambda kinds: kinds[-1])
def test_the_target_is_met(name: str, kinds: tuple[str, ...]) -> None:
    source = graph(name)
    found = run(source, 0.8, kinds=kinds, steps=5, masks=3)
    assert found.graph.parameter_count() <= 0.8 * source.parameter_count()
    assert kinds == ("blocks",) or found.graph.parameter_count() > 0.7 * source.parameter_count()


@LLAMA
def test_what_does_not_matter_goes_whatever_it_starts_from() -> None:
    """The second layer's MLP adds next to nothing; scores of one group do not tell it from the first's."""
    source = graph("llama")
    dead = {
        name: torch.nn.Parameter(tensor.detach() * 1e-3)
        for name, tensor in source.parameters().items()
        if name == "model.layers.1.mlp.down_proj.weight"
    }
    assert dead
    planted = source.with_tensors(dead)

    def distance(outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        return (outputs[0] - run_batch(planted, batch)[0]).square().mean()

    found = run(planted, 0.8, distance, kinds=("mlp",), steps=300, rate=0.1, init="flat")
    share = {id: len(units) / 44 for id, units in found.plan.keep.items()}
    first, second = (f"model.layers.{layer}.mlp.gate_proj.weight:0" for layer in range(2))
    assert share[second] < 0.5 < 0.75 < share.get(first, 1.0)


@LLAMA
def test_a_stopped_search_goes_on_to_the_same(tmp_path: Path) -> None:
    whole = run(graph("llama"), 0.75, folder=tmp_path)
    log = next(tmp_path.rglob("policy.jsonl"))
    lines = log.read_text().splitlines(keepends=True)
    assert len(lines) == 40 * 4
    log.write_text("".join(lines[:90]))
    again = run(graph("llama"), 0.75, folder=tmp_path)
    assert again.plan == whole.plan
    assert log.read_text() == "".join(lines)
    run(graph("llama"), 0.85, folder=tmp_path)
    assert len(log.read_text().splitlines()) == 2 * 40 * 4, "another budget is another search"


@LLAMA
def test_progress_and_notes_tell_what_happened() -> None:
    source, heard, notes = graph("llama"), list[tuple[int, int]](), list[str]()
    groups = [group for group in analyze(source).prunable() if group.kind in KINDS]
    scene = view(source, groups, BATCHES, budget=Budget(int(0.8 * source.parameter_count())))
    scene = replace(scene, progress=lambda *entry: heard.append(entry), note=notes.append)
    scores = Policy(steps=10).score(scene)
    assert {id: score.dtype for id, score in scores.items()} == {g.id: torch.float32 for g in groups}
    assert heard == [(done, 10) for done in range(1, 11)]
    assert "40 masks teach 2 gates, and there are 16" in notes[0]
    assert "use policy{steps=80}" in notes[0]
    assert "a mean loss of" in notes[1]
    notes.clear()
    Policy(steps=60, bundle=2).score(scene)
    assert "240 masks teach 12 gates, and there are 48" in notes[0]
    assert "use policy{bundle=11}" in notes[0]
    notes.clear()
    Policy(steps=80).score(scene)
    assert len(notes) == 1


@LLAMA
def test_units_of_a_bundle_rank_as_they_did_before() -> None:
    source = graph("llama")
    groups = [group for group in analyze(source).prunable() if group.kind == "mlp"]
    scene = view(source, groups, BATCHES, budget=Budget(int(0.8 * source.parameter_count())))
    first, found = Wanda().score(scene), Policy(steps=3, bundle=44).score(scene)
    for id, scores in found.items():
        assert torch.argsort(scores).tolist() == torch.argsort(first[id]).tolist()
        assert (scores >= 0).all()
        assert (scores <= 1.01).all()


def test_bad_options_are_told_before_a_model_is_read() -> None:
    with pytest.raises(UsageError, match="use masks=2 or more, or baseline=moving"):
        Policy(masks=1)
    assert Policy(masks=1, baseline="moving")
    with pytest.raises(UsageError, match="another importance, or flat"):
        Policy(init="policy")
    with pytest.raises(UsageError, match="wnada"):
        Policy(init="wnada")
    with pytest.raises(UsageError, match="margin of policy is from 0 to below"):
        Policy(margin=0.5)
    with pytest.raises(UsageError, match="judges masks on calibration text"):
        Policy().score(view(graph("llama")))
    spec = "policy{masks=2,init='wanda{reduce=sum}'}"
    assert parse_spec("importance", spec) == Policy(masks=2, init="wanda{reduce=sum}")
    assert parse_spec("importance", print_spec(parse_spec("importance", spec))) == parse_spec("importance", spec)
