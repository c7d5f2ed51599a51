"""Module-wise pruning errors: against cuts, for what nobody misses, by their number, and as an order of units."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Group
from graphprune.encoders.embeddings import find_embeddings
from graphprune.encoders.losses import make_loss
from graphprune.encoders.recall import Recall
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.passes.importance.ablation import Ablation
from graphprune.passes.importance.taylor import Taylor
from graphprune.pruning.interfaces import Scene, view
from graphprune.pruning.search.modules import find_modules, share_errors
from graphprune.rewriting.apply import apply
from graphprune.running.loss import Loss, batch_loss
from tests.support.families import graph as graph_of
from tests.support.tiny_llama import tiny_graph
from tests.support.tiny_pairs import random_pairs

pytestmark = pytest.mark.xdist_group("clip")
IDS = [torch.randint(3, 60, (2, 8), generator=torch.Generator().manual_seed(n)) for n in range(2)]


def scene(name: str) -> Scene:
    """The heads and channels of the zoo's CLIP, or of the tiny Llama, with batches and a loss."""
    graph = graph_of("clip") if name == "clip" else tiny_graph()
    groups = [group for group in analyze(graph).prunable() if group.kind in ("attention", "mlp")]
    if name != "clip":
        return view(graph, groups, IDS)
    batches = [random_pairs(graph, count, count) for count in (6, 9)]
    return view(graph, groups, batches, make_loss(graph, find_embeddings(graph), "contrastive"))


def measured(graph: Graph, at: Scene, loss: Loss | None) -> float:
    """The mean over predictions, worked out apart."""
    sizes = [b.numel() - len(b) if isinstance(b, Tensor) else len(b["input_ids"]) for b in at.batches]
    with torch.no_grad():
        values = [float(batch_loss(graph, batch, loss)) for batch in at.batches]
    return sum(v * s for v, s in zip(values, sizes, strict=True)) / sum(sizes)


def without(group: Group, units: list[int]) -> Plan:
    return Plan({group.id: tuple(unit for unit in range(group.units) if unit not in units)})


@pytest.mark.parametrize("name", ["clip", "llama"])
@pytest.mark.parametrize("metric", ["loss", "recall"])
def test_the_error_of_a_module_is_that_of_its_cut(name: str, metric: str) -> None:
    at = scene(name)
    if metric == "recall" and name == "llama":
        with pytest.raises(UsageError, match="which this model does not compare"):
            Ablation("recall").score(at)
        return
    loss = at.loss if metric == "loss" else Recall(find_embeddings(at.graph))
    found = Ablation(metric).score(at)  # type: ignore[arg-type]
    ranks = Taylor().score(at)
    modules = find_modules(at.candidates, ranks, 8, False)
    whole = measured(at.graph, at, loss)
    by_id = {group.id: group for group in at.candidates}
    chosen = torch.randperm(len(modules), generator=torch.Generator().manual_seed(1))[:10].tolist()
    for module in (modules[place] for place in chosen):
        ((id, units),) = module.units.items()
        rise = measured(apply(at.graph, without(by_id[id], units.tolist())), at, loss) - whole
        nuance = len(units) * 1e-4 * float(found[id].abs().max())
        for score in found[id][units].tolist():
            assert score * len(units) == pytest.approx(rise, abs=2e-6 + nuance)


def test_many_masks_at_once_are_each_alone_though_rows_are_compared() -> None:
    at = scene("clip")
    together = Ablation().score(at)
    one_by_one = Ablation().score(
        replace(at, batches=[{**batch, "more": torch.zeros(len(batch["input_ids"]), 1 << 20)} for batch in at.batches])
    )  # type: ignore[call-overload, index]
    for id, values in together.items():
        torch.testing.assert_close(values, one_by_one[id], rtol=1e-3, atol=1e-6)


def test_what_nobody_misses_has_exactly_nothing() -> None:
    at = scene("llama")
    names = {"attention": "self_attn.o_proj", "mlp": "mlp.down_proj"}
    dead: dict[str, Tensor] = {}
    idle: dict[str, list[int]] = {}
    for group in at.candidates:
        layer, kind = group.id.split(".")[2], names[group.kind]
        name = f"model.layers.{layer}.{kind}.weight"
        weight = dead.get(name, at.graph.parameters()[name].detach().clone())
        idle[group.id] = [1] if group.kind == "attention" else list(range(3, 3 + -(-group.units // 8)))
        slot = next(slot for slot in group.slots if slot.name == name)
        owner = torch.from_numpy(slot.owner)
        weight[:, torch.isin(owner, torch.tensor(idle[group.id]))] = 0
        dead[name] = weight
    graph = at.graph.with_tensors({name: torch.nn.Parameter(weight) for name, weight in dead.items()})
    found = Ablation().score(view(graph, at.candidates, at.batches))
    for group in at.candidates:
        scores = found[group.id]
        assert all(float(scores[unit]) == 0.0 for unit in idle[group.id])
        alive = [unit for unit in range(group.units) if unit not in idle[group.id]]
        assert any(float(scores[unit]) != 0.0 for unit in alive)


@pytest.mark.parametrize(("shared", "groups_of"), [(False, lambda layers: 8 * layers), (True, lambda _: 8)])
def test_as_many_masks_are_judged_as_is_said(shared: bool, groups_of: Callable[[int], int], tmp_path: Path) -> None:
    notes: list[str] = []
    at = replace(scene("llama"), note=notes.append, folder=tmp_path)
    Ablation(shared=shared).score(at)
    heads = sum(group.units for group in at.candidates if group.kind == "attention")
    groups = groups_of(sum(group.kind == "mlp" for group in at.candidates))
    assert notes == [
        f"ablation took out {heads + groups} modules by themselves: {heads} heads and {groups} groups of channels"
    ]
    journal = next(tmp_path.glob("ablation-*.jsonl"))
    assert len(journal.read_text().splitlines()) == heads + groups + 1
    before = journal.read_text()
    Ablation(shared=shared).score(at)
    assert journal.read_text() == before  # nothing is worked out twice


def test_units_of_a_module_stand_in_the_order_of_their_ranks() -> None:
    group = next(g for g in scene("llama").candidates if g.kind == "mlp")
    ranks = {group.id: torch.rand(group.units, generator=torch.Generator().manual_seed(0))}
    modules = find_modules([group], ranks, 4, False)
    assert sorted(torch.cat([m.units[group.id] for m in modules]).tolist()) == list(range(group.units))
    errors = [0.4, 0.0, -0.1, 0.2]
    scores = share_errors([group], modules, errors, ranks)[group.id]
    for module in modules:
        own = module.units[group.id]
        assert scores[own].tolist() == sorted(scores[own].tolist(), reverse=True)
    by_error = sorted(range(4), key=lambda place: errors[place])
    for low, high in itertools.pairwise(by_error):
        assert float(scores[modules[low].units[group.id]].max()) < float(scores[modules[high].units[group.id]].min())


def test_a_permutation_of_units_changes_nothing() -> None:
    at = scene("llama")
    group = next(g for g in at.candidates if g.kind == "mlp")
    order = torch.randperm(group.units, generator=torch.Generator().manual_seed(0))
    double = at.graph.with_tensors({n: torch.nn.Parameter(p.double()) for n, p in at.graph.parameters().items()})
    tensors = {}
    for slot in group.slots:
        tensors[slot.name] = torch.nn.Parameter(double.parameters()[slot.name].detach().index_select(slot.dim, order))
    rewired = double.with_tensors(tensors)
    with torch.no_grad():
        assert float(batch_loss(rewired, IDS[0])) == pytest.approx(float(batch_loss(double, IDS[0])), abs=1e-9)
