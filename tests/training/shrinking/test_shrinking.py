"""Shrinking: what is off has no effect and what is cut was off, moments go with their units, the end is the budget."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Groups
from graphprune.gates.gated import gate
from graphprune.ir.graph import Graph
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import decoder_inputs
from graphprune.training.learning.learner import Learning
from graphprune.training.learning.results import build, compacted
from graphprune.training.loop import advance
from graphprune.training.options import TrainOptions
from graphprune.training.session import Session, make_accelerator, prepare
from graphprune.training.shrinking.least_salient import LeastSalient
from graphprune.training.shrinking.shrinking import Shrinking, Shrunk
from graphprune.training.train import train
from tests.support import oracle
from tests.support.families import graph as family
from tests.support.rows import Rows
from tests.support.tiny_llama import ids, tiny_graph
from tests.training.test_train import equal

pytestmark = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=8, rows=4, lr=3e-3, schedule="constant", keep="last", divergence=1e9, device="cpu")
KINDS = frozenset({"mlp", "attention", "residual"})


def asked(graph: Graph, share: float = 0.6, **options: Any) -> LeastSalient:
    least = tuple(f"{g.id}=1" for g in analyze(graph).prunable(KINDS))
    return LeastSalient(least, int(share * graph.parameter_count()), **options)


def begun(graph: Graph, learner: LeastSalient, options: TrainOptions = OPTIONS) -> Session:
    vocabulary = int(graph.parameters()[next(iter(graph.parameters()))].shape[0])
    rows = Rows(vocabulary=min(64, vocabulary))
    return prepare(make_accelerator(options), graph, options, rows, None, None, None, learner)


def shrinking(session: Session) -> Shrinking:
    assert isinstance(session.learning, Shrinking)
    return session.learning


def to_first_cut(session: Session) -> tuple[Session, Any]:
    for step in range(session.options.steps):
        advance(session, step)
        plan = session.learning.after_step(step + 1)
        if plan is not None:
            return session, plan
    raise AssertionError("nothing was cut")


def logits(graph: Graph) -> torch.Tensor:
    result = graph(*decoder_inputs(graph, ids(2, 12) % 40))
    return result[graph.outputs.index("logits")].detach()


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "phi3"])
def test_what_is_cut_computes_what_ran_with_it_off(name: str) -> None:
    graph = tiny_graph() if name == "llama" else family(name)
    session, plan = to_first_cut(begun(graph, asked(graph, 0.7, batch=0.2)))
    learning = shrinking(session)
    smaller = compacted(session, plan)
    with torch.no_grad():
        torch.testing.assert_close(logits(session.trainee.graph), logits(smaller.graph), rtol=1e-3, atol=1e-4)
    now = oracle.double(replace(build(session), companions={}))
    known = {group.id for group in learning.candidates}
    gated = gate(now, [group for group in analyze(now).groups if group.id in known], "survivors")
    values = {id: mask.double() for id, mask in learning.live.items()}
    cut = apply(now, plan)
    with torch.no_grad():
        off, gone = gated(values, *inputs(now)), cut(*inputs(cut))
    place = now.outputs.index("logits")
    torch.testing.assert_close(gone[place], off[place], rtol=1e-9, atol=1e-9)


def inputs(graph: Graph) -> list[torch.Tensor]:
    return [x.double() if x.is_floating_point() else x for x in decoder_inputs(graph, ids(2, 12) % 40)]


def test_moments_are_those_of_the_units_that_stay() -> None:
    session, plan = to_first_cut(begun(tiny_graph(), asked(tiny_graph(), batch=0.15)))
    before = {n: session.optimizer.optimizer.state[p]["exp_avg"] for n, p in session.trainee.trainable.items()}
    smaller = compacted(session, plan)
    groups: Groups = analyze(tiny_graph())
    for name, parameter in smaller.trainee.trainable.items():
        wanted = before[name]
        for slot in (s for id in plan.keep for s in groups[id].slots if s.name == name):
            keep = [i for i, unit in enumerate(slot.owner) if unit in plan.keep[owner_of(groups, name, slot.dim)]]
            wanted = wanted.index_select(slot.dim, torch.tensor(keep)) if len(keep) < wanted.shape[slot.dim] else wanted
        state = smaller.optimizer.optimizer.state[parameter]
        assert state["exp_avg"].shape == parameter.shape
        assert torch.equal(state["exp_avg"], wanted), name


def owner_of(groups: Groups, name: str, dim: int) -> str:
    return next(g.id for g in groups.prunable(KINDS) for s in g.slots if (s.name, s.dim) == (name, dim))


def test_moments_of_units_that_are_off_never_act(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = asked(tiny_graph(), batch=1.0)
    wanted = train(tiny_graph(), OPTIONS, Rows(), learner=learner)
    after_step = Shrinking.after_step

    def poison(self: Shrinking, done: int) -> Any:
        plan = after_step(self, done)
        for group in self.candidates:
            for slot in group.slots:
                gone = torch.nonzero(~self.live[group.id][torch.from_numpy(slot.owner)]).flatten()
                if slot.name in self.plain.trainable:
                    self.plain.trainable[slot.name].data.index_fill_(slot.dim, gone, 3.0)
        return plan

    monkeypatch.setattr(Shrinking, "after_step", poison)
    assert equal(train(tiny_graph(), OPTIONS, Rows(), learner=learner).graph, wanted.graph)


def test_dead_units_go_first_and_their_going_changes_nothing() -> None:
    graph, groups = tiny_graph(), analyze(tiny_graph())
    dead = {groups.prunable(frozenset({"attention"}))[1].id: [2], groups.prunable(frozenset({"mlp"}))[0].id: [1, 7, 20]}
    planted = killed(graph, groups, dead)
    sizes = groups.sizes() | {id: groups[id].units - len(units) for id, units in dead.items()}
    learner = replace(asked(graph), target=groups.costs.parameters(sizes))
    found = train(planted, replace(OPTIONS, lr=1e-12), Rows(), learner=learner)
    keep = found.graph.lineage.plan.keep
    assert {id: sorted(set(range(groups[id].units)) - set(units)) for id, units in keep.items()} == dead
    torch.testing.assert_close(logits(found.graph), logits(planted), rtol=1e-4, atol=1e-5)


def test_dead_entries_of_the_stream_go_first() -> None:
    graph, groups = tiny_graph(), analyze(tiny_graph())
    (stream,) = groups.prunable(frozenset({"residual"}))
    planted = killed(graph, groups, {stream.id: [0, 5, 9, 31]})
    target = groups.costs.parameters(groups.sizes() | {stream.id: 28})
    found = train(planted, OPTIONS, Rows(), learner=replace(asked(graph), target=target))
    assert set(range(32)) - set(found.graph.lineage.plan.keep[stream.id]) == {0, 5, 9, 31}


def killed(graph: Graph, groups: Groups, dead: dict[str, list[int]]) -> Graph:
    """The graph with zeros in everything that these units own."""
    new = {name: torch.nn.Parameter(p.detach().clone()) for name, p in graph.parameters().items()}
    first = {id(p): name for name, p in reversed(graph.parameters().items())}
    new = {name: new[first[id(p)]] for name, p in graph.parameters().items()}
    for group, units in dead.items():
        for slot in groups[group].slots:
            if slot.name in new:
                gone = torch.tensor([i for i, unit in enumerate(slot.owner) if unit in units])
                new[slot.name].data.index_fill_(slot.dim, gone, 0.0)
    return graph.with_tensors(new)


def test_after_the_target_weights_are_trained_as_they_are() -> None:
    session, plan = to_first_cut(begun(tiny_graph(), asked(tiny_graph(), batch=1.0)))
    smaller = compacted(session, plan)
    learning: Learning = smaller.learning
    assert isinstance(learning, Shrunk)
    assert learning.runs_plain
    assert learning.after_step(9) is None
    assert learning.state().plain["log"][0]["step"] == OPTIONS.steps
    assert learning.remarks()["mlp"] >= 1
