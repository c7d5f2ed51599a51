"""The beginning of a run: which tokens go before the passes start, what these then do, what the user is told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.budget.targets import resolve_target
from graphprune.compiler.goal import Aim
from graphprune.compiler.vocabulary_start import (
    Beginning,
    begin,
    cuts_vocabulary,
    later_aim,
    later_kinds,
    planned_vocabulary,
    shorten_evenly,
    vocabulary_measures,
    vocabulary_notes,
)
from graphprune.data.calibration import Text
from graphprune.data.tokens import load_tokenizer
from graphprune.errors import BudgetError, UsageError
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import Change, Recipe, read_recipe
from graphprune.progress import no_progress
from graphprune.rewriting.apply import apply
from graphprune.vocabulary.cutting import VocabularyCut
from graphprune.vocabulary.ranking import vocabulary_group
from tests.support.tiny_llama import tiny_graph
from tests.support.tiny_source import write_source

pytestmark = pytest.mark.xdist_group("vocabulary")


def asked(**changes: Any) -> CompileOptions:
    return CompileOptions(**{"model": "here", "target_params": "80%", "out": Path("out"), **changes})


def recipe(*kinds: str) -> Recipe:
    return read_recipe("taylor", [Change("prune.kinds", list(kinds), "here")])


def aim(options: CompileOptions, graph: Graph, *kinds: str) -> Aim:
    return Aim(resolve_target(*options.target, graph, {}), recipe(*kinds))


ONLY = {"target_params": None, "vocabulary": "50"}


@pytest.mark.parametrize(
    ("changes", "kinds", "cuts", "later"),
    [
        ({}, ("mlp",), False, ("mlp",)),
        ({}, ("mlp", "vocabulary", "attention"), True, ("mlp", "attention")),
        ({"vocabulary": "50"}, ("mlp",), True, ("mlp",)),
        (ONLY, ("auto",), True, ()),
        (ONLY, ("vocabulary",), True, ()),
    ],
)
def test_the_passes_prune_what_is_asked_for_besides_the_tokens(
    changes: dict[str, Any], kinds: tuple[str, ...], cuts: bool, later: tuple[str, ...]
) -> None:
    assert cuts_vocabulary(asked(**changes), recipe(*kinds)) == cuts
    assert later_kinds(asked(**changes), recipe(*kinds)) == later


def test_tokens_that_are_cut_evenly_leave_the_target_where_it_was() -> None:
    options = asked(vocabulary="50")
    before = aim(options, tiny_graph(), "vocabulary", "mlp")
    graph, after = shorten_evenly(options, before, tiny_graph())
    assert vocabulary_group(analyze(graph)).units == 50
    assert graph.parameter_count() == tiny_graph().parameter_count() - 14 * 32
    assert (after.target.most, after.target.source) == (before.target.most, graph.parameter_count())
    assert after.recipe.prune.kinds == ("mlp",)
    assert before.recipe.prune.kinds == ("vocabulary", "mlp"), "the aim of the run stays"


def test_what_is_smaller_than_the_target_is_not_to_grow() -> None:
    options = asked(vocabulary="20", target_params="95%")
    graph, after = shorten_evenly(options, aim(options, tiny_graph(), "mlp"), tiny_graph())
    assert graph.parameter_count() < 0.95 * tiny_graph().parameter_count()
    assert after.target.most == after.target.source == graph.parameter_count()


def test_alone_so_many_tokens_stay_as_the_target_has_room_for() -> None:
    options = asked(target_params="90%", prune=("vocabulary",))
    before = aim(options, tiny_graph(), "vocabulary")
    graph, after = shorten_evenly(options, before, tiny_graph())
    assert before.target.most - 32 < graph.parameter_count() <= before.target.most
    assert after.recipe.prune.kinds == ()
    even, _ = shorten_evenly(replace(options, round_to=8), Aim(before.target, rounded(8)), tiny_graph())
    assert vocabulary_group(analyze(even)).units == vocabulary_group(analyze(graph)).units // 8 * 8


def rounded(step: int) -> Recipe:
    return read_recipe("taylor", [Change("prune.kinds", ["vocabulary"], ""), Change("prune.round_to", step, "")])


def test_without_a_text_nobody_knows_how_many_tokens_stay_beside_others() -> None:
    options = asked(prune=("vocabulary", "mlp"))
    with pytest.raises(UsageError, match="reads no text, which decides how many tokens stay; give --vocabulary N"):
        shorten_evenly(options, aim(options, tiny_graph(), "vocabulary", "mlp"), tiny_graph())


def test_where_no_token_goes_the_run_begins_with_the_source_itself() -> None:
    options, graph = asked(), tiny_graph()
    goal = aim(options, graph, "mlp")
    with begin(options, goal, graph, no_progress) as start:
        assert (start.graph, start.aim, start.vocabulary) == (graph, goal, None)
        made = apply(graph, Plan({"model.layers.0.mlp.gate_proj.weight:0": (0, 1)}))
        assert start.rooted(made) is made
    assert later_aim(options, goal, graph).target == goal.target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("beginning"))


@pytest.fixture(scope="module")
def source(folder: Path) -> Graph:
    return capture(str(folder), dtype=torch.float32)


def test_the_tokenizer_of_a_beginning_lasts_as_long_as_it_and_one_plan_makes_all(folder: Path, source: Graph) -> None:
    options = asked(vocabulary="280", data=str(folder / "text.txt"))
    with begin(options, aim(options, source, "vocabulary", "mlp"), source, no_progress) as start:
        made = start.graph.source.companions
        assert made is not None
        assert (made / "tokenizer.json").is_file()
        assert vocabulary_group(analyze(start.graph)).units == 280
        assert start.vocabulary is not None
        assert (start.vocabulary.before, start.vocabulary.after) == (300, 280)
        ids, kept = load_tokenizer(folder)((folder / "text.txt").read_text())["input_ids"], start.lineage.plan.keep
        share = sum(id in set(*kept.values()) for id in ids) / len(ids)
        assert start.vocabulary.covered == pytest.approx(share, abs=0.01)
        assert start.graph.lineage.plan == Plan(), "for the passes it is the source"
        group = next(group for group in analyze(start.graph).groups if group.kind == "mlp")
        whole = start.rooted(apply(start.graph, Plan({group.id: (0, 3)})))
        assert len(whole.lineage.plan.keep) == 2
        again = apply(source, whole.lineage.plan)
        assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in whole.tensors().items())
        assert [step.spec for step in start.graph.history] == ["vocabulary{tokens=280}"]
    assert not made.exists()


def test_a_saved_plan_cuts_the_tokens_that_it_cut_before(source: Graph) -> None:
    group = vocabulary_group(analyze(source))
    with planned_vocabulary(source, Plan({"model.layers.0.mlp.gate_proj.weight:0": (0,)})) as (graph, cut):
        assert graph is source
        assert cut is None
    kept = tuple(id for id in range(300) if id != 299)
    with planned_vocabulary(source, Plan({group.id: kept})) as (graph, cut):
        assert graph.source.companions is not None
        assert graph.source.companions.is_dir()
        assert cut == VocabularyCut(300, 299, 0, None, cut.left_out if cut else ())
    assert not graph.source.companions.exists()


def test_a_mistake_in_the_size_is_told_before_the_text_is_read(source: Graph) -> None:
    for size, error in (("many", UsageError), ("400", BudgetError)):
        with pytest.raises(error, match=f"--vocabulary {size}"):
            start(source, size)


def start(source: Graph, size: str) -> None:
    options = asked(vocabulary=size, data="no such text")
    with begin(options, aim(options, source, "mlp"), source, no_progress):
        pytest.fail("nothing begins")


CUT = VocabularyCut(300, 270, 1000, 0.9876, ("vocab.json", "merges.txt"))


def test_tokens_and_their_rate_are_measured_before_and_after() -> None:
    texts = [Text((), torch.zeros(count, dtype=torch.long), 200, None) for count in (50, 80)]
    tokens, rate = vocabulary_measures(CUT, *texts)
    assert (tokens.before, tokens.after) == (300, 270)
    assert (rate.before, rate.after) == (0.25, 0.4)
    assert vocabulary_measures(CUT, None, texts[1])[1].before is None
    assert vocabulary_measures(None, *texts) == ()


def test_the_user_is_told_what_went_and_what_was_counted() -> None:
    counted, library, files = vocabulary_notes(CUT, asked().data)
    assert counted.startswith("270 of 300 tokens are left; they are 98.76% of the 1,000 tokens counted")
    assert "Python's own library; give --data" in library
    assert files.endswith("left out, since they hold all: vocab.json, merges.txt")
    assert vocabulary_notes(replace(CUT, left_out=()), asked(data="a.txt").data) == (counted,)
    assert vocabulary_notes(replace(CUT, covered=None), asked(data="a.txt").data) == (files,)
    assert vocabulary_notes(replace(CUT, after=300), asked().data) == vocabulary_notes(None, asked().data) == ()


def test_a_beginning_without_a_cut_adds_nothing_to_a_lineage() -> None:
    goal = aim(asked(), tiny_graph(), "mlp")
    plan = Plan({"model.layers.0.mlp.gate_proj.weight:0": (0, 1)})
    made = apply(tiny_graph(), plan)
    assert Beginning(tiny_graph(), goal).rooted(made).lineage.plan == plan
