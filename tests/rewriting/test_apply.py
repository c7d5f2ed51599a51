"""Plans and their application: refused where they do not fit, exact where they do, and the source stays as it is."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.analysis.analyse import analyze, analyze_axes
from graphprune.analysis.groups import Groups
from graphprune.errors import PlanError
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan, Statistics, read_plan
from graphprune.rewriting.apply import apply
from tests.support import oracle, zoo
from tests.support.families import analysis, families, graph

LLAMA = pytest.mark.xdist_group("llama")
MLP, RESIDUAL = "model.layers.0.mlp.gate_proj.weight:0", "model.embed_tokens.weight:1"
BRANCH = "model.layers.1.self_attn"


def random_plan(groups: Groups, seed: int, statistics: Statistics = "survivors") -> Plan:
    rng = random.Random(seed)
    keep = {g.id: oracle.random_keep(g, rng) for g in groups.prunable()}
    return Plan(keep, (rng.choice(groups.branches).id,), statistics)


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    for plan in (Plan(), Plan({"b:0": (0, 2), "a:1/attention": (1,)}, ("x.mlp",), "exact")):
        path.write_text(plan.to_json(), encoding="utf-8")
        assert read_plan(path) == plan
        assert read_plan(path).to_json() == plan.to_json()


def edited(change: Callable[[dict[str, object]], object]) -> str:
    data = json.loads(Plan({"a": (0,)}).to_json())
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a plan"),
        ("[]", "is not a plan"),
        ("{}", "is not a plan: 'format'"),
        (edited(lambda d: d.update(format=3)), "plan of format 3, this version reads formats 1 and 2"),
        (edited(lambda d: d.update(keep={"a": 3})), "is not a plan"),
        (edited(lambda d: d.update(keep={"a": ["x"]})), "is not a plan"),
        (edited(lambda d: d.update(keep={"a": [float("inf")]})), "is not a plan"),
        (edited(lambda d: d.update(keep={"a": [1.5]})), "is not a plan"),
        (edited(lambda d: d.update(statistics="all")), "statistics 'all'"),
        (edited(lambda d: d.pop("dropped")), "is not a plan: 'dropped'"),
        ("\udcff", "is not a plan"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PlanError, match=message):
        read_plan(path)


def test_a_missing_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no plan can be read at .*none\.json: No such file"):
        read_plan(tmp_path / "none.json")


@LLAMA
@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan({"nothing:0": (0,)}), "names the group nothing:0, which this model does not have"),
        (Plan({}, ("nothing",)), "drops nothing, which is no residual branch"),
        (Plan({MLP: ()}), f"keeps units of {MLP} that are not a sorted choice among its 44"),
        (Plan({MLP: (1, 0)}), "not a sorted choice"),
        (Plan({MLP: (1, 1)}), "not a sorted choice"),
        (Plan({MLP: (0, 44)}), "not a sorted choice"),
        (Plan({MLP: (-1, 3)}), "not a sorted choice"),
    ],
)
def test_plans_that_do_not_fit_are_refused(plan: Plan, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        apply(graph("llama"), plan)


@pytest.mark.parametrize("name", families(["opt"]))
def test_a_locked_group_may_be_named_whole_alone(name: str) -> None:
    positions = "model.decoder.embed_positions.weight:0"
    whole = apply(graph(name), Plan({positions: tuple(range(66))}))
    assert str(whole) == str(apply(graph(name), Plan()))
    with pytest.raises(PlanError, match=f"{positions}, which is locked: picked from by computed indices"):
        apply(graph(name), Plan({positions: (0, 1)}))


@pytest.mark.parametrize("name", families(("llama", "gpt_neox", "mixtral", "cnn")))
def test_the_source_stays_as_it_is(name: str) -> None:
    source = graph(name)
    printed, tensors = str(source), source.tensors()
    values = {n: t.detach().clone() for n, t in tensors.items()}
    types = [(n.name, n.meta["value"]) for n in source.nodes if n.op != "output"]
    for statistics in ("survivors", "exact"):
        apply(source, random_plan(analysis(name).groups, 0, statistics))  # type: ignore[arg-type]
    assert str(source) == printed
    assert [(n.name, n.meta["value"]) for n in source.nodes if n.op != "output"] == types
    assert all(source.tensors()[n] is t for n, t in tensors.items())
    assert all(torch.equal(t, values[n]) for n, t in tensors.items())


@pytest.mark.parametrize("name", families(zoo.FAMILIES))
def test_parameters_are_what_the_polynomial_says(name: str) -> None:
    """Counted on the result, against the polynomial at the plan's widths and a count from the slots."""
    source, groups = graph(name), analysis(name).groups
    assert groups.costs.parameters(groups.sizes()) == source.parameter_count()
    for seed in range(2):
        plan = random_plan(groups, seed)
        left = sum(p.numel() for p in apply(source, plan).parameters().values())
        assert left == groups.costs.parameters({**groups.sizes(), **plan.widths()})
    group = groups.prunable()[-1]
    plan = Plan({group.id: (0,)})
    masks = oracle.Masked(source, analysis(name)).masks(plan)
    gone = sum(int((mask.expand(source.parameters()[n].shape) == 0).sum()) for n, mask in masks.items())
    assert apply(source, plan).parameter_count() == source.parameter_count() - gone


@LLAMA
def test_what_is_not_cut_is_the_same_tensor() -> None:
    source = graph("llama")
    left = apply(source, Plan({MLP: (0, 3)}))
    changed = {n for n, t in left.tensors().items() if t is not source.tensors()[n]}
    assert changed == {f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    up = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(left.tensors()[up], source.tensors()[up][[0, 3]])
    assert isinstance(left.tensors()[up], nn.Parameter)


@LLAMA
def test_groups_keep_their_names_after_a_cut() -> None:
    plan = Plan({g.id: tuple(range(g.units - 1)) for g in analysis("llama").groups.prunable() if g.units > 2})
    after = analyze_axes(apply(graph("llama"), plan)).groups
    assert [g.id for g in after.groups] == [g.id for g in analysis("llama").groups.groups]
    assert {id: after[id].units for id in plan.keep} == plan.widths()


@LLAMA
def test_a_residual_cut_is_a_smaller_llama() -> None:
    """Survivors' statistics are what a stock model of the smaller width computes: its norms see its channels only."""
    kept = tuple(sorted(random.Random(0).sample(range(32), 20)))
    cut = apply(graph("llama"), Plan({RESIDUAL: kept}))
    small = zoo.llama(hidden_size=20, head_dim=8).eval()
    small.load_state_dict({n: t.detach() for n, t in cut.parameters().items()})
    ids = torch.randint(3, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    feed = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "position_ids": torch.arange(6).repeat(2, 1)}
    past = {n: torch.zeros(2, 2, 0, 8) for n in cut.inputs}
    with torch.no_grad():
        expected = small(ids).logits
        found, exact = (
            dict(zip(made.outputs, made(*((past | feed)[n] for n in made.inputs)), strict=True))["logits"]
            for made in (cut, apply(graph("llama"), Plan({RESIDUAL: kept}, statistics="exact")))
        )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(exact, expected, rtol=1e-2, atol=1e-2), "the norms of all 32 channels are another model"


class Normed(nn.Module):
    """A residual block with a layer norm whose epsilon is left to its default."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(3, 8), nn.LayerNorm(8)
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        return self.head(stem + self.down(torch.relu(self.up(self.norm(stem)))))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def normed() -> Graph:
    torch.manual_seed(0)
    module = Normed().eval()
    nn.init.normal_(module.norm.weight)
    return capture(module, inputs={"x": torch.randn(4, 3)})


def by_hand(graph: Graph, x: Tensor, kept: list[int], exact: bool) -> Tensor:
    """The block on the kept channels; exact: mean and variance of all eight, the removed ones being zero."""
    p = {n: t.detach() for n, t in graph.parameters().items()}
    stem = functional.linear(x, p["stem.weight"][kept], p["stem.bias"][kept])
    seen = torch.zeros(len(x), 8).index_copy(1, torch.tensor(kept), stem) if exact else stem
    mean, variance = seen.mean(1, keepdim=True), seen.var(1, keepdim=True, unbiased=False)
    normed = (stem - mean) * torch.rsqrt(variance + 1e-5) * p["norm.weight"][kept] + p["norm.bias"][kept]
    inner = torch.relu(functional.linear(normed, p["up.weight"][:, kept], p["up.bias"]))
    branch = functional.linear(inner, p["down.weight"][kept], p["down.bias"][kept])
    return functional.linear(stem + branch, p["head.weight"][:, kept], p["head.bias"])


@pytest.mark.parametrize("statistics", ["survivors", "exact"])
def test_statistics_of_a_layer_norm(normed: Graph, statistics: Statistics) -> None:
    kept, x = [0, 2, 3, 7], torch.randn(5, 3)
    found = apply(normed, Plan({"stem.weight:0": tuple(kept)}, (), statistics))(x)[0]
    torch.testing.assert_close(found, by_hand(normed, x, kept, statistics == "exact"))
    other = by_hand(normed, x, kept, statistics != "exact")
    assert not torch.allclose(found, other)


@pytest.mark.xdist_group("llama")
def test_companions_are_cut_with_their_parameters() -> None:
    source = graph("llama")
    numbered = {name: torch.arange(p.numel()).view(p.shape) for name, p in source.parameters().items()}
    with_moments = replace(source, companions={"moment": numbered})
    plan = random_plan(analysis("llama").groups, 1)
    cut = apply(with_moments, replace(plan, dropped=("model.layers.1.mlp",)))
    weights = {name: torch.nn.Parameter(tensor.float()) for name, tensor in numbered.items()}
    wanted = apply(source.with_tensors(weights), replace(plan, dropped=("model.layers.1.mlp",))).parameters()
    assert list(cut.companions["moment"]) == list(wanted)
    assert all(torch.equal(cut.companions["moment"][name].float(), wanted[name]) for name in wanted)


@pytest.mark.xdist_group("llama")
def test_lineage_makes_the_shape_from_the_source_in_one_go() -> None:
    source = graph("llama")
    once = apply(source, random_plan(analysis("llama").groups, 1))
    twice = apply(once, random_plan(analyze(once), 2))
    again = apply(source, twice.lineage.plan)
    assert {n: t.shape for n, t in again.tensors().items()} == {n: t.shape for n, t in twice.tensors().items()}
    assert again.lineage.plan == twice.lineage.plan
    roots = {again.lineage.root(group.id) for group in analyze(again).groups}
    assert roots == {twice.lineage.root(group.id) for group in analyze(twice).groups}
    assert roots <= {group.id for group in analysis("llama").groups.groups}
