"""Adaptive allocation: layers found from the axes, the right sign, shares carried, the budget met exactly."""

from dataclasses import replace

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.analysis.layers import find_layers
from graphprune.budget.budgets import Budget
from graphprune.errors import UsageError
from graphprune.passes.allocation.adaptive import Adaptive
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.pruning.interfaces import Scene
from graphprune.pruning.rounds import Request, Surroundings, prune
from graphprune.pruning.signals.stream_change import measure_change, normalise
from graphprune.rewriting.apply import apply
from tests.support.families import analysis, families, graph

BATCHES = (torch.randint(3, 60, (4, 12), generator=torch.Generator().manual_seed(0)),)


@pytest.mark.parametrize("name", families(("llama", "gpt2", "gpt_neox", "falcon", "bert", "gemma2")))
def test_layers_are_found_without_names(name: str) -> None:
    groups = analysis(name).groups
    layers = find_layers(groups)
    assert [branch for layer in layers for branch in layer] == list(groups.branches)
    numbers = [{part for branch in layer for part in branch.id.split(".") if part.isdigit()} for layer in layers]
    assert numbers == [{str(i)} for i in range(len(layers))], layers
    assert len(layers) == 2


def louder(factor: float) -> object:
    """The llama with the second layer's outputs scaled."""
    source = graph("llama")
    names = [f"model.layers.1.{n}.weight" for n in ("self_attn.o_proj", "mlp.down_proj")]
    scaled = {n: torch.nn.Parameter(source.parameters()[n].detach() * factor) for n in names}
    return source.with_tensors(scaled)


@pytest.mark.xdist_group("llama")
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "manhattan"])
def test_a_layer_that_changes_more_is_more_important(distance: str) -> None:
    layers = find_layers(analysis("llama").groups)
    quiet, loud = (measure_change(louder(f), layers, BATCHES, distance) for f in (0.1, 30.0))  # type: ignore[arg-type]
    assert quiet[1] < loud[1]
    assert quiet[0] == pytest.approx(loud[0])
    assert quiet[1] < quiet[0] < loud[1]


@pytest.mark.xdist_group("llama")
def test_cosine_against_the_definition() -> None:
    """The mean over tokens but the first of a row, of minus the cosine of the states before and after a layer."""
    import transformers

    from tests.support.families import model

    network: transformers.PreTrainedModel = model("llama")
    layers = find_layers(analysis("llama").groups)
    with torch.no_grad():
        # The last state is taken before the final norm, by a hook: transformers returns it normalised.
        states: list[torch.Tensor] = []
        hooks = [
            b.register_forward_hook(lambda m, a, o: states.append(o[0] if isinstance(o, tuple) else o))
            for b in network.model.layers
        ]
        network(BATCHES[0])
        for hook in hooks:
            hook.remove()
        embedded = network.model.embed_tokens(BATCHES[0])
    before = [embedded, *states[:-1]]
    wanted = [
        -float(torch.nn.functional.cosine_similarity(a[:, 1:], b[:, 1:], dim=-1).mean())
        for a, b in zip(before, states, strict=True)
    ]
    assert measure_change(graph("llama"), layers, BATCHES, "cosine") == pytest.approx(wanted, abs=1e-5)


def test_normalised_changes() -> None:
    assert normalise([1.0, 2.0, 6.0]) == pytest.approx((-2 / 3, -1 / 3, 1.0))
    assert normalise([3.0, 3.0]) == (0.0, 0.0)
    assert normalise([]) == ()


def make_round(share: float, memo: dict[str, float] | None = None) -> Scene:
    source = graph("llama")
    groups = analysis("llama").groups
    candidates = groups.prunable(frozenset({"mlp", "attention"}))
    budget = Budget(int(share * source.parameter_count()))
    return Scene(source, groups, candidates, budget, BATCHES, memo=memo or {})


@pytest.mark.xdist_group("llama")
def test_amplitude_zero_is_uniform_and_one_spares_the_most_important_layer() -> None:
    level = Adaptive(amplitude=0.0).keep(make_round(0.8), {}).counts
    shares = {id: count / analysis("llama").groups[id].units for id, count in level.items() if "mlp" in id}
    assert max(shares.values()) - min(shares.values()) <= 1 / 16
    rates = Adaptive(amplitude=1.0).rates(make_round(0.8))
    assert min(rates.values()) == pytest.approx(0.0)
    assert max(rates.values()) == pytest.approx(2.0)
    sparing = Adaptive(amplitude=1.0).keep(make_round(0.8), {}).counts
    for id, rate in rates.items():
        if rate == 0.0:
            assert sparing[id] == analysis("llama").groups[id].units


@pytest.mark.xdist_group("llama")
@pytest.mark.parametrize("share", [0.95, 0.8, 0.7])
def test_the_budget_is_met_within_one_unit(share: float) -> None:
    round = make_round(share)
    counts = Adaptive().keep(round, {}).counts
    cost = round.groups.costs.parameters({**round.groups.sizes(), **counts})
    assert round.budget.target - 3 * 32 < cost <= round.budget.target


@pytest.mark.xdist_group("llama")
def test_shares_are_carried_until_a_head_is_due() -> None:
    """Steps too small for any head add up to what one large step does."""
    source = graph("llama")
    heads = {g.id: g.units for g in analysis("llama").groups.prunable(frozenset({"attention"}))}
    kinds, target = ("mlp", "attention"), int(0.66 * source.parameter_count())
    left = {}
    for steps in (1, 8):
        request = Request(Budget(target), Magnitude(), Adaptive(amplitude=0.0), kinds, steps=steps)
        pruned = prune(source, request, BATCHES)
        sizes = {**heads, **{id: len(units) for id, units in pruned.plan.keep.items() if id in heads}}
        left[steps] = sum(sizes.values())
        assert pruned.graph.parameter_count() <= target
    assert left[1] == left[8] < sum(heads.values())


@pytest.mark.xdist_group("llama")
def test_stages_carry_what_is_owed() -> None:
    """Two calls, the second on the first's result, end where one call with twice the steps ends."""
    source = graph("llama")
    total = source.parameter_count()
    goals = [total - (total - int(0.7 * total)) * k // 4 for k in range(1, 5)]

    def request(goal: int, steps: int) -> Request:
        return Request(Budget(goal), Magnitude(), Adaptive(), ("mlp", "attention"), steps=steps, final=goals[-1])

    whole = prune(source, request(goals[3], 4), BATCHES)
    half = prune(source, request(goals[1], 2), BATCHES)
    assert half.graph.memo["adaptive"]
    rest = prune(half.graph, request(goals[3], 2), BATCHES, Surroundings(source=source))
    assert {id: len(u) for id, u in rest.plan.keep.items()} == {id: len(u) for id, u in whole.plan.keep.items()}
    assert analyze(apply(source, rest.plan)).sizes() == analyze(rest.graph).sizes()


@pytest.mark.xdist_group("llama")
def test_what_is_outside_the_layers_gives_its_share() -> None:
    source, groups = graph("llama"), analysis("llama").groups
    candidates = groups.prunable(frozenset({"mlp", "residual"}))
    budget = Budget(int(0.5 * source.parameter_count()))
    round = Scene(source, groups, candidates, budget, BATCHES)
    (residual,) = (g for g in candidates if g.kind == "residual")
    left = [Adaptive(outside=o).keep(round, {}).counts[residual.id] for o in (1.0, 0.5, 0.2)]
    assert left[0] < left[1] < left[2] <= residual.units
    assert Adaptive(outside=0.2).rates(round)[residual.id] == 0.2


@pytest.mark.xdist_group("llama")
def test_refused_without_text_and_with_wrong_options() -> None:
    round = make_round(0.8)
    with pytest.raises(UsageError, match="--data"):
        Adaptive().keep(replace(round, batches=()), {})
    with pytest.raises(UsageError, match="amplitude"):
        Adaptive(amplitude=2.0)
    with pytest.raises(UsageError, match="outside of adaptive is above 0 and up to 1"):
        Adaptive(outside=0.0)
    with pytest.raises(UsageError, match="distance"):
        Adaptive(distance="euclid")  # type: ignore[arg-type]
