"""SliceGPT: the axes are the stream's, nothing is lost at full width, the cut is masking, and the size is met."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphprune.analysis.analyse import analyze, analyze_axes
from graphprune.budget.budgets import Budget
from graphprune.edits.editing import edited
from graphprune.edits.segments import segment_edits, segments
from graphprune.errors import PlanError, UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import opname
from graphprune.ir.plan import Plan
from graphprune.passes.allocation.uniform import Uniform
from graphprune.passes.compensation.principal_axes import PrincipalAxes
from graphprune.passes.importance.order import Order
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.resolution import resolve_recipe
from graphprune.pipeline.run_state import load_state, save_state
from graphprune.pruning.interfaces import view
from graphprune.pruning.principal_axes import arranged, find_segments, principal_axes, turn
from graphprune.pruning.rounds import Pruned, Request, Surroundings, prune
from graphprune.rewriting.apply import apply
from graphprune.rewriting.masked import Masked
from graphprune.running.inputs import graph_inputs
from graphprune.running.stepper import Stepper
from tests.edits.test_editing import difference
from tests.support import oracle
from tests.support.families import families, graph, wide

LLAMA = pytest.mark.xdist_group("llama")
BATCHES = tuple(torch.randint(3, 60, (16, 12), generator=torch.Generator().manual_seed(0)).split(4))
KINDS, WHOLE_HEAD = ("residual",), PrincipalAxes()


def slice_to(
    source: Graph, share: float, repair: PrincipalAxes = WHOLE_HEAD, steps: int = 1, around: Surroundings | None = None
) -> Pruned:
    budget = Budget(int(share * source.parameter_count()))
    request = Request(budget, Order(), Uniform(), KINDS, steps, None, "exact", repair)
    return prune(source, request, BATCHES, around)


def test_the_axes_are_those_of_numpy_and_the_first_hold_the_most() -> None:
    values = [torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    rows = torch.cat([value.flatten(0, -2) for value in values]).double()
    axes = principal_axes(values)
    assert torch.allclose(axes.T @ axes, torch.eye(6, dtype=torch.float64), atol=1e-12)
    eigenvalues = torch.linalg.eigvalsh(rows.T @ rows).flip(0)
    energy = (rows @ axes).square().sum(0)
    torch.testing.assert_close(energy, eigenvalues)
    torch.testing.assert_close((rows @ axes[:, :2]).square().sum(), eigenvalues[:2].sum())
    assert torch.equal(arranged(axes, (4, 5))[:, [4, 5, 0, 1, 2, 3]], axes)


@pytest.mark.parametrize("name", families(("llama", "gpt2", "falcon")))
def test_at_full_width_nothing_is_lost_and_a_cut_is_the_masked_model(name: str) -> None:
    source = wide(name).graph
    whole = edited(source, segment_edits(source))
    chosen = [segment.group.id for segment in find_segments(whole)]
    assert len(chosen) == len(segments(whole))
    full = turn(whole, dict.fromkeys(chosen, range(32)), BATCHES)
    assert difference(source, full) < 1e-9
    kept = {id: tuple(range(number % 2, 20 + number % 3)) for number, id in enumerate(chosen)}
    turned = turn(whole, kept, BATCHES)
    assert difference(source, turned) < 1e-9
    plan = Plan(kept, statistics="exact")
    analysis = analyze_axes(turned)
    oracle.check_cut(turned, analysis, Masked(turned, analysis), plan, 1e-9)


@LLAMA
def test_each_segment_sees_the_model_that_is_cut_so_far() -> None:
    """In what is cut, no axis that stays turns with any other one: their second moments are a diagonal."""
    source = graph("llama")
    result = slice_to(source, 0.9).graph
    run = Stepper(result, [graph_inputs(result, batch) for batch in BATCHES], frozenset(n.name for n in result.nodes))
    for segment in find_segments(result)[:-1]:
        with torch.no_grad():
            run.advance(segment.node)
        rows = torch.cat([value.flatten(0, -2) for value in run.value(segment.node)]).double()
        moment = rows.T @ rows
        assert (moment - moment.diag().diag()).abs().max() < 1e-4 * moment.max()
        assert moment.diag().diff().max() < 1e-4 * moment.max()


@LLAMA
def test_the_size_is_met_with_all_that_was_added_and_rounds_change_nothing() -> None:
    source = graph("llama")
    pruned = slice_to(source, 0.8)
    target = int(0.8 * source.parameter_count())
    count = pruned.graph.parameter_count()
    costs = analyze(edited(source, pruned.plan.edits)).costs
    kept = {id: len(units) for id, units in pruned.plan.keep.items()}
    assert max(kept.values()) - min(kept.values()) <= 1
    assert count <= target
    sizes = analyze(edited(source, pruned.plan.edits)).sizes() | kept
    assert all(costs.parameters({**sizes, id: kept[id] + 1}) > target for id in kept)
    last = segments(edited(source, pruned.plan.edits))[-1]
    assert last.id not in kept
    assert pruned.graph.tensors()["lm_head.weight"].shape == source.tensors()["lm_head.weight"].shape
    several = slice_to(source, 0.8, steps=3)
    assert several.plan == pruned.plan
    assert str(several.graph) == str(pruned.graph)
    assert all(torch.equal(t, pruned.graph.tensors()[n]) for n, t in several.graph.tensors().items())


@LLAMA
def test_the_head_is_cut_where_that_is_asked_for_and_a_model_small_enough_is_left_alone() -> None:
    source = graph("llama")
    pruned = slice_to(source, 0.8, PrincipalAxes(head=True, sequential=False))
    assert len(pruned.plan.keep) == 5
    assert pruned.graph.tensors()["lm_head.weight"].shape[1] < 32
    assert slice_to(source, 1.0).graph is source


@LLAMA
def test_a_sliced_model_is_sliced_again_and_norms_still_divide_by_the_whole_width(tmp_path: Path) -> None:
    source = graph("llama")
    once = slice_to(source, 0.9).graph
    twice = slice_to(once, 0.9, around=Surroundings(source=source)).graph
    assert twice.lineage.plan.edits == once.lineage.plan.edits
    made = apply(source, twice.lineage.plan)
    assert str(made) == str(twice)
    whole = edited(source, twice.lineage.plan.edits)
    width = {segment.node.name: segment.group.units for segment in find_segments(twice)}
    assert all(units < 32 for units in list(width.values())[:-1])
    kept = {id: len(units) / 32 for id, units in twice.lineage.plan.keep.items()}
    shares = [user.args[1] for node in twice.nodes if opname(node) == "mean" for user in node.users]
    assert shares[: len(kept)] == list(kept.values()), "each mean is over 32 units, most of which are zero"
    assert len(segments(whole)) == len(kept) + 1
    save_state(tmp_path, 0, twice)
    found = load_state(tmp_path, source)
    assert found is not None
    assert all(torch.equal(t, twice.tensors()[n]) for n, t in found[1].tensors().items())
    assert str(found[1]) == str(twice)
    assert found[1].lineage == twice.lineage


@LLAMA
def test_what_it_cannot_do_is_told_in_a_line() -> None:
    cut = apply(graph("llama"), Plan())
    with pytest.raises(UsageError, match="principal-axes needs calibration text; give --data"):
        PrincipalAxes().compensate(graph("llama"), cut, replace(view(graph("llama")), batches=()))
    options = CompileOptions("model", "80%", Path("out"), method="slicegpt")
    with pytest.raises(UsageError, match=r"--uniform: the method slicegpt adds operators .* leave --uniform out"):
        resolve_recipe(replace(options, uniform=True))
    with pytest.raises(UsageError, match=r"--backends gguf: the method slicegpt adds .* leave gguf out"):
        resolve_recipe(replace(options, backends=("huggingface", "gguf")))
    assert resolve_recipe(options).prune.statistics == "exact"


@pytest.mark.xdist_group("gemma2")
def test_a_stream_that_is_scaled_unit_by_unit_is_refused_with_the_call() -> None:
    with pytest.raises(PlanError, match=r"post_attention_layernorm\.weight cannot be folded into what reads it"):
        slice_to(graph("gemma2"), 0.8)
