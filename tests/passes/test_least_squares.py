"""Compensation: what least squares and mean activations must get exactly right, on graphs of several families."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graphprune.analysis.groups import Group, Kind
from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.budget.budgets import Budget
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan, read_plan
from graphprune.ir.verification import verify
from graphprune.passes.allocation.uniform import Uniform
from graphprune.passes.compensation.bias import Bias
from graphprune.passes.compensation.least_squares import LeastSquares
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.pruning.activations.moments import Moments, read
from graphprune.pruning.interfaces import view
from graphprune.pruning.reconstruct import Solution
from graphprune.pruning.ridge import Ridge
from graphprune.pruning.rounds import Request, Surroundings, prune
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import decoder_inputs, graph_inputs
from graphprune.running.stepper import Stepper
from tests.support.families import analysis, families, graph

BATCHES = tuple(torch.randint(3, 60, (4, 12), generator=torch.Generator().manual_seed(seed)) for seed in range(4))
EXACT = LeastSquares(damping=0.0)


def logits(model: Graph, ids: Tensor = BATCHES[0]) -> Tensor:
    with torch.no_grad():
        return model(*decoder_inputs(model, ids))[0]


def distance(model: Graph, to: Graph) -> float:
    return float(sum((logits(model, ids) - logits(to, ids)).square().mean() for ids in BATCHES))


def groups_of(name: str, *kinds: Kind) -> list[Group]:
    return [g for g in analysis(name).groups.prunable(frozenset(kinds)) if g.units > 1]


def halves(groups: list[Group]) -> Plan:
    return Plan({g.id: tuple(range(0, g.units, 2)) for g in groups})


@pytest.mark.xdist_group("llama")
def test_a_copied_channel_is_removed_without_a_trace() -> None:
    source = graph("llama")
    group = groups_of("llama", "mlp")[0]
    scope = group.scope
    copied = {}
    for name in (f"{scope}.gate_proj.weight", f"{scope}.up_proj.weight"):
        weight = source.parameters()[name].detach().clone()
        weight[5] = weight[2]
        copied[name] = torch.nn.Parameter(weight)
    twins = source.with_tensors(copied)
    cut = apply(twins, Plan({group.id: tuple(u for u in range(group.units) if u != 5)}))
    repaired = LeastSquares(damping=1e-9).compensate(twins, cut, view(twins, (), BATCHES))
    assert distance(cut, twins) > 1e-6
    torch.testing.assert_close(logits(repaired), logits(twins), rtol=1e-3, atol=1e-4)


@pytest.mark.xdist_group("llama")
def test_the_solution_is_that_of_lstsq() -> None:
    source, group = graph("llama"), groups_of("llama", "mlp")[0]
    cut = apply(source, halves([group]))
    repaired = LeastSquares(damping=0.0, target="output").compensate(source, cut, view(source, (), BATCHES))
    name = f"{group.scope}.down_proj.weight"
    call = next(c for c in find_linear_calls(source) if c.weight == name)
    run = Stepper(source, [graph_inputs(source, ids) for ids in BATCHES], frozenset({call.x.name}))
    with torch.no_grad():
        run.advance(call.node)
    read = torch.cat([x.flatten(0, 1) for x in run.value(call.x)]).double()
    wrote = read @ source.parameters()[name].detach().double().T
    wanted = torch.linalg.lstsq(read[:, ::2], wrote).solution.T
    torch.testing.assert_close(repaired.parameters()[name].double(), wanted, rtol=1e-3, atol=1e-4)
    others = [n for n in cut.parameters() if n != name]
    assert all(torch.equal(cut.parameters()[n], repaired.parameters()[n]) for n in others)


CASES = [("llama", "mlp"), ("llama", "attention"), ("llama", "residual"), ("llama", "query"), ("llama", "head_dim")]
CASES += [("gpt2", "mlp"), ("gpt2", "attention"), ("gpt_neox", "mlp"), ("gpt_neox", "attention"), ("phi3", "mlp")]
CASES += [("opt", "mlp"), ("bloom", "attention"), ("gemma2", "mlp"), ("gpt2", "residual"), ("falcon", "mlp")]


@pytest.mark.parametrize(("name", "kind"), [pytest.param(n, k, marks=pytest.mark.xdist_group(n)) for n, k in CASES])
@pytest.mark.parametrize("target", ["stream", "output"])
def test_every_kind_comes_closer_to_the_source(name: str, kind: Kind, target: str) -> None:
    source, groups = graph(name), groups_of(name, kind)
    assert groups
    cut = apply(source, halves(groups))
    repaired = LeastSquares(target=target, damping=1e-4).compensate(source, cut, view(source, (), BATCHES))  # type: ignore[arg-type]
    verify(repaired)
    before, after = distance(cut, source), distance(repaired, source)
    assert after < before, (before, after)
    assert repaired.parameter_count() == cut.parameter_count()


@pytest.mark.xdist_group("llama")
def test_all_consumers_means_more_weights_are_solved() -> None:
    source = graph("llama")
    cut = apply(source, halves(groups_of("llama", "mlp")))
    changed = {}
    for consumers in ("cut", "all"):
        result = LeastSquares(consumers=consumers).compensate(source, cut, view(source, (), BATCHES))  # type: ignore[arg-type]
        changed[consumers] = {n for n, p in result.parameters().items() if not torch.equal(p, cut.parameters()[n])}
    assert changed["cut"] == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}
    assert changed["cut"] < changed["all"]
    assert not any("embed" in name or "norm" in name for name in changed["all"])


@pytest.mark.xdist_group("llama")
def test_nothing_cut_nothing_changed() -> None:
    source = graph("llama")
    same = LeastSquares(consumers="all").compensate(source, source, view(source, (), BATCHES))
    torch.testing.assert_close(logits(same), logits(source), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", families(("llama", "gpt2", "opt")))
def test_bias_keeps_the_mean_of_what_is_written(name: str) -> None:
    source = graph(name)
    group = groups_of(name, "mlp")[0]
    bias = Bias()
    prepared = apply(source, Plan(edits=bias.edits(view(source, [group]))))
    torch.testing.assert_close(logits(prepared), logits(source))
    cut = apply(prepared, halves([group]))
    repaired = bias.compensate(source, cut, view(source, (), BATCHES))
    verify(repaired)
    weights = {slot.name for slot in group.slots}
    call = next(
        c for c in find_linear_calls(source) if c.weight in weights and "act" not in c.x.name and reads(c, group)
    )
    means = []
    for model in (source, repaired):
        node = next(n for n in model.nodes if n.name == call.node.name)
        run = Stepper(model, [graph_inputs(model, ids) for ids in BATCHES], frozenset({node.name}))
        with torch.no_grad():
            run.advance(node)
        means.append(torch.cat([v.flatten(0, -2) for v in run.value(node)]).mean(0))
    torch.testing.assert_close(means[1], means[0], rtol=1e-4, atol=1e-5)


def reads(call: object, group: Group) -> bool:
    transposed, weight = call.transposed, call.weight  # type: ignore[attr-defined]
    return any(slot.name == weight and slot.dim == (0 if transposed else 1) for slot in group.slots)


@pytest.mark.xdist_group("llama")
def test_added_biases_are_counted_and_replayed(tmp_path: object) -> None:
    source = graph("llama")
    target = int(0.8 * source.parameter_count())
    request = Request(Budget(target), Magnitude(), Uniform(), ("mlp", "attention"), steps=2, compensation=Bias())
    pruned = prune(source, request, BATCHES)
    assert pruned.graph.parameter_count() <= target
    assert "model.layers.0.mlp.down_proj.bias" in pruned.graph.parameters()
    path = tmp_path / "plan.json"  # type: ignore[operator]
    path.write_text(pruned.plan.to_json())
    again = apply(source, read_plan(path))
    shapes = {n: t.shape for n, t in pruned.graph.tensors().items()}
    assert {n: t.shape for n, t in again.tensors().items()} == shapes


@pytest.mark.parametrize("name", families(("llama", "gpt2")))
@pytest.mark.parametrize("compensation", [Bias(), EXACT])
def test_rounds_add_nothing_to_what_the_whole_cut_takes(name: str, compensation: Bias | LeastSquares) -> None:
    """Three rounds are the cut by their plan, compensated once, bit for bit: nothing is made up for twice."""
    source = graph(name)
    budget = Budget(int(0.7 * source.parameter_count()))
    parts = (budget, Magnitude(), Uniform(), ("mlp", "attention"))
    pruned = prune(source, Request(*parts, steps=3, compensation=compensation), BATCHES)
    once = compensation.compensate(source, apply(source, pruned.plan), view(source, (), BATCHES))
    assert {*once.parameters()} == {*pruned.graph.parameters()}
    assert all(torch.equal(p, pruned.graph.parameters()[n]) for n, p in once.parameters().items())


@pytest.mark.xdist_group("llama")
def test_prune_compensates_in_every_step() -> None:
    source = graph("llama")
    target = int(0.7 * source.parameter_count())
    plain = Request(Budget(target), Magnitude(), Uniform(), ("mlp", "attention"), steps=3)
    reports: list[str] = []
    repaired = prune(
        source,
        replace(plain, compensation=LeastSquares()),
        BATCHES,
        Surroundings(report=lambda *entry: reports.append(entry[0])),
    )
    cut = prune(source, plain, BATCHES)
    assert repaired.graph.parameter_count() == cut.graph.parameter_count()
    assert distance(repaired.graph, source) < distance(cut.graph, source)
    assert "compensating (least-squares)" in reports


@pytest.mark.xdist_group("llama")
def test_without_text_there_is_one_clear_error() -> None:
    source = graph("llama")
    for method in (LeastSquares(), Bias()):
        with pytest.raises(UsageError, match="--data"):
            method.compensate(source, source, view(source, (), ()))
    with pytest.raises(UsageError, match="target=stream or output"):
        LeastSquares(target="logits")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", families(("llama", "gpt2", "gemma2", "cnn")))
def test_the_stepper_equals_the_graph_and_forgets(name: str) -> None:
    source = graph(name)
    rows = [(torch.randn(2, 3, 8, 8),)] if name == "cnn" else [decoder_inputs(source, ids) for ids in BATCHES[:2]]
    last = source.nodes[-1].all_input_nodes[0]
    run = Stepper(source, rows, frozenset({last.name}))
    with torch.no_grad():
        run.advance(last)
        for values, inputs in zip(run.value(last), rows, strict=True):
            torch.testing.assert_close(values, source(*inputs)[0])
    run.forget(last)
    held = {node.name for node in run.values[0]}
    still_read = {
        node.name for node in source.nodes[: run.place] if any(u in source.nodes[run.place :] for u in node.users)
    }
    assert held <= still_read | {last.name}


def rescaled(source: Graph, group: Group, factor: float) -> Graph:
    """The same function: three channels that are written `factor` times as large, and read as much smaller."""
    changed = {}
    for name, leaf in ((f"{group.scope}.up_proj.weight", 0), (f"{group.scope}.down_proj.weight", 1)):
        weight = source.parameters()[name].detach().clone()
        rows = weight if leaf == 0 else weight.T
        rows[[1, 8, 21]] *= factor if leaf == 0 else 1 / factor
        changed[name] = torch.nn.Parameter(weight)
    return source.with_tensors(changed)


@pytest.mark.xdist_group("llama")
def test_what_leaves_the_model_as_it_is_leaves_the_solution_as_it_is() -> None:
    source, group = graph("llama"), groups_of("llama", "mlp")[0]
    kept = Plan({group.id: tuple(sorted({*range(0, group.units, 2), 1, 21}))})
    found = []
    for model in (source, rescaled(source, group, 300.0)):
        torch.testing.assert_close(logits(model), logits(source), rtol=1e-4, atol=1e-4)
        found.append(LeastSquares(damping=0.05).compensate(model, apply(model, kept), view(model, (), BATCHES)))
    assert distance(found[0], source) > 1e-6
    torch.testing.assert_close(logits(found[1]), logits(found[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.xdist_group("llama")
def test_a_token_of_huge_activations_does_not_rule_the_fit() -> None:
    """One token in 48 is read a thousand times as large: the others come out as well as without it."""
    torch.manual_seed(0)
    values = [torch.randn(4, 12, 6, dtype=torch.float64) for _ in range(4)]
    true = torch.randn(6, 3, dtype=torch.float64)
    wild = [value.clone() for value in values]
    for value in wild:
        value[0, 0] *= 1000
    errors = []
    for read_of in (values, wild):
        wanted = [value @ true + 0.1 * value.abs().mean(-1, keepdim=True) for value in read_of]
        seen = read(read_of, [12] * 4, "x")
        moment, _ = seen.cross(wanted, 3)
        fit = seen.solve(moment, 0.0, centred=False)
        plain = values[1][1:] @ (fit - true) - 0.1 * values[1][1:].abs().mean(-1, keepdim=True)
        errors.append(float(plain.square().mean()))
    assert errors[1] < 3 * errors[0] + 0.02


@pytest.mark.xdist_group("llama")
def test_a_head_of_many_tokens_costs_no_more_than_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the size tokens times outputs is made: the call itself is not run, and is solved a part at a time."""
    source = graph("llama")
    cut = apply(source, halves(groups_of("llama", "mlp")))
    whole = LeastSquares(consumers="all").compensate(source, cut, view(source, (), BATCHES))
    monkeypatch.setattr("graphprune.pruning.reconstruct._OUTPUTS", 7)
    parts = LeastSquares(consumers="all").compensate(source, cut, view(source, (), BATCHES))
    for name, parameter in whole.parameters().items():
        torch.testing.assert_close(parts.parameters()[name], parameter, rtol=1e-4, atol=1e-5)
    ran = []
    step = Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda self, node, index: (ran.append(node.name), step(self, node, index))[1])
    LeastSquares(consumers="all").compensate(source, cut, view(source, (), BATCHES))
    head = next(c for c in find_linear_calls(source) if "lm_head" in c.weight)
    assert head.x.name in ran
    assert head.node.name not in ran


@pytest.mark.parametrize("name", families(("llama", "gpt2")))
def test_what_was_solved_before_a_kill_is_not_solved_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = graph(name)
    cut = apply(source, halves(groups_of(name, "mlp", "attention")))
    scene, method = replace(view(source, None, BATCHES), folder=tmp_path), LeastSquares(consumers="all")
    whole = method.compensate(source, cut, replace(scene, folder=None)).parameters()
    solve, solved, limit = Ridge.__call__, list[str](), [3]

    def stopped(ridge: Ridge, seen: Moments, *rest: Any) -> Solution:
        if len(solved) == limit[0]:
            raise KeyboardInterrupt
        solved.append(seen.name)
        return solve(ridge, seen, *rest)

    monkeypatch.setattr(Ridge, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        method.compensate(source, cut, scene)
    limit[0] = -1
    found = method.compensate(source, cut, scene).parameters()
    assert all(torch.equal(whole[each], found[each]) for each in whole)
    count = len(solved)
    assert count == len(list(tmp_path.rglob("*.safetensors")))
    method.compensate(source, cut, scene)
    assert len(solved) == count, "all is known"
    replace(method, damping=0.5).compensate(source, cut, scene)
    assert len(solved) == 2 * count, "another damping is another solution"
