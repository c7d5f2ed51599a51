"""Reconstruct: what holds for every solver, whatever it does to a weight."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.pruning.activations.moments import Moments, read
from graphprune.pruning.reconstruct import Solution, Target, reconstruct
from graphprune.pruning.ridge import Ridge
from graphprune.pruning.signals.token_weights import token_weights
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import decoder_inputs
from graphprune.running.stepper import Stepper
from tests.support.families import analysis, families, graph

BATCHES = tuple(torch.randint(3, 60, (4, 12), generator=torch.Generator().manual_seed(seed)) for seed in range(3))


@dataclass(frozen=True)
class Same:
    """A solver that leaves every weight as it is, after it has looked at all targets."""

    work: torch.dtype = torch.float64

    def __call__(self, seen: Moments, weight: Tensor, targets: Iterator[Target], centred: bool) -> Solution:
        assert sum(len(target.mean) for target in targets) == len(weight)
        return Solution(weight)


def halved(name: str) -> Graph:
    groups = [g for g in analysis(name).groups.prunable(frozenset({"mlp"})) if g.units > 1]
    return apply(graph(name), Plan({g.id: tuple(range(0, g.units, 2)) for g in groups}))


def equal(left: Graph, right: Graph) -> bool:
    return all(torch.equal(p, right.parameters()[name]) for name, p in left.parameters().items())


@pytest.mark.parametrize("name", families(("llama", "gpt2", "opt")))
@pytest.mark.parametrize("sequential", [True, False])
def test_a_solver_that_changes_nothing_gives_the_same_bits(name: str, sequential: bool) -> None:
    cut = halved(name)
    same = reconstruct(graph(name), cut, find_linear_calls(cut), Same(), BATCHES, sequential=sequential)
    assert equal(cut, same)


@pytest.mark.xdist_group("llama")
def test_calls_that_do_not_follow_each_other_are_solved_alike_in_any_company() -> None:
    """Without `sequential` a call's weight depends neither on the order nor on which others are solved."""
    source, cut = graph("llama"), halved("llama")
    calls, ridge = find_linear_calls(cut), Ridge(0.01)
    whole = reconstruct(source, cut, calls, ridge, BATCHES, sequential=False)
    assert not equal(whole, cut)
    assert equal(whole, reconstruct(source, cut, calls[::-1], ridge, BATCHES, sequential=False))
    for call in calls:
        alone = reconstruct(source, cut, [call], ridge, BATCHES, sequential=False)
        assert torch.equal(alone.parameters()[call.weight], whole.parameters()[call.weight])
    assert not equal(whole, reconstruct(source, cut, calls, ridge, BATCHES))


@pytest.mark.xdist_group("llama")
def test_a_token_at_which_much_is_missing_does_not_rule_what_writes_there() -> None:
    """The stream lacks a thousand times as much at the first token, of which the call reads nothing unusual."""
    source = graph("llama")
    table = source.parameters()["model.embed_tokens.weight"].detach().clone()
    table[2] *= 1000.0
    wild = source.with_tensors({"model.embed_tokens.weight": torch.nn.Parameter(table)})
    batches = [torch.cat([torch.full((4, 1), 2), ids], 1) for ids in BATCHES]
    call = next(c for c in find_linear_calls(source) if c.weight.endswith("layers.0.self_attn.o_proj.weight"))
    old = source.parameters()[call.weight].detach()
    new = reconstruct(wild, source, [call], Ridge(0.1), batches).parameters()[call.weight].detach()
    assert float((new - old).norm() / old.norm()) < 1.0


@pytest.mark.xdist_group("llama")
def test_a_restart_takes_away_what_went_wrong_before() -> None:
    """The second layer's call is solved as if nothing had been cut in the first."""
    source, cut = graph("llama"), halved("llama")
    second = analysis("llama").groups.branches[2].skip
    ids = [g.id for g in analysis("llama").groups.prunable(frozenset({"mlp"}))]
    late = apply(source, Plan({ids[1]: tuple(range(0, 2 * cut_units(cut, 1), 2))}))
    name = "model.layers.1.mlp.down_proj.weight"
    found = []
    for model, restart in ((cut, frozenset({second})), (late, frozenset[str]()), (cut, frozenset[str]())):
        call = next(c for c in find_linear_calls(model) if c.weight == name)
        solved = reconstruct(source, model, [call], Ridge(0.01), BATCHES, restart=restart)
        found.append(solved.parameters()[name])
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2], rtol=1e-3)


def cut_units(cut: Graph, layer: int) -> int:
    return int(cut.parameters()[f"model.layers.{layer}.mlp.down_proj.weight"].shape[1])


@pytest.mark.xdist_group("llama")
def test_the_unpruned_model_keeps_nothing_that_has_been_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls are solved, few values are held at any time: memory is that of one place."""
    source, cut = graph("llama"), halved("llama")
    most, advance = [], Stepper.advance

    def watched(self: Stepper, *args: object, **kwargs: object) -> None:
        advance(self, *args, **kwargs)  # type: ignore[arg-type]
        parameters = {id(t) for t in self.tensors.values()}
        later = {node for node in self.order[self.place :] if node.op != "output"}  # keys and values are outputs
        idle = [
            node
            for node, value in self.values[0].items()
            if isinstance(value, Tensor) and id(value) not in parameters and not later & set(node.users)
        ]
        most.append(len(idle))

    monkeypatch.setattr(Stepper, "advance", watched)
    reconstruct(source, cut, find_linear_calls(cut), Ridge(0.01), BATCHES)
    assert max(most) <= 2


@pytest.mark.xdist_group("llama")
def test_only_what_is_held_can_be_replaced() -> None:
    source = graph("llama")
    run = Stepper(source, [decoder_inputs(source, BATCHES[0])])
    branch = analysis("llama").groups.branches[0]
    skip = next(node for node in run.order if node.name == branch.skip)
    with torch.no_grad():
        run.advance(skip)
        run.put(skip, [torch.zeros_like(run.value(skip)[0])])
        assert not run.value(skip)[0].any()
        run.advance(run.order[-1])
        with pytest.raises(Exception, match="not held"):
            run.put(skip, [torch.zeros(1)])


def test_moments_are_those_of_all_tokens_in_any_split() -> None:
    values = torch.randn(12, 8, 6, generator=torch.Generator().manual_seed(0))
    whole = read([values], [8], "x")
    parts = read(list(values.split(5)), [8, 8, 8], "x")
    rough = read(list(values.split(5)), [8, 8, 8], "x", torch.float32)
    (weight,) = token_weights([values], [8])
    rows = values.flatten(0, 1).double()
    torch.testing.assert_close(whole.gram, rows.T @ (rows * weight[:, None]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.gram, whole.gram, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rough.gram, whole.gram, rtol=1e-5, atol=1e-6)


def test_without_a_number_damping_is_in_proportion_to_inputs_over_tokens() -> None:
    values = torch.randn(4, 8, 6, generator=torch.Generator().manual_seed(0))
    assert Ridge(None).damping_of(read([values], [8], "x")) == pytest.approx(8 * 6 / 32)
    assert Ridge(None).damping_of(read([values.repeat(400, 1, 1)], [8], "x")) == 0.01
    assert Ridge(0.5).damping_of(read([values], [8], "x")) == 0.5
