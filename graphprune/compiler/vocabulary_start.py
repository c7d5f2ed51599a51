"""The beginning of a run: the model that its passes start from, which has fewer tokens where that was asked for."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from graphprune.analysis.analyse import analyze
from graphprune.budget.budgets import Budget
from graphprune.budget.targets import Target, cost_of_graph
from graphprune.compiler.goal import Aim
from graphprune.data.calibration import Text, held_out_part, training_part
from graphprune.errors import UsageError
from graphprune.evaluation.measure import Measure
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Lineage, Step, chain
from graphprune.ir.plan import Plan
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import Recipe
from graphprune.progress import Progress
from graphprune.rewriting.apply import apply
from graphprune.spec import parse_spec
from graphprune.vocabulary.cutting import (
    VocabularyCut,
    choose_count,
    cut_vocabulary,
    fitting_count,
    parse_size,
    require_same_texts,
)
from graphprune.vocabulary.prompt_tokens import prompted_source, with_prompt_tokens
from graphprune.vocabulary.prompts import prompt_size
from graphprune.vocabulary.ranking import Ranking, rank_tokens, vocabulary_group


@dataclass(frozen=True, eq=False)
class Beginning:
    """The model that the passes see as their source, what they are to do, and what was done to the vocabulary.

    Its lineage is empty; `lineage` is how it was made of the source. `counted` says whether tokens of the text were
    counted for the vocabulary, which text that is measured on must then stand apart from. `folder` is an empty place
    for a tokenizer that the passes may need.
    """

    graph: Graph
    aim: Aim
    vocabulary: VocabularyCut | None = None
    lineage: Lineage = field(default_factory=Lineage)
    counted: bool = False
    folder: Path | None = None

    def rooted(self, graph: Graph) -> Graph:
        """What the passes made, with the one plan that makes it from the source, and the tokens of its prompt."""
        if self.vocabulary is not None:
            # What edits do to a row of the table they do to every row, so they can come before the cut of tokens.
            return replace(graph, lineage=chain(self.lineage, graph.lineage, apart=True))
        return graph if self.folder is None else with_prompt_tokens(graph, self.folder)


def cuts_vocabulary(options: CompileOptions, recipe: Recipe) -> bool:
    return options.vocabulary is not None or "vocabulary" in recipe.prune.kinds


def require_no_prompt(recipe: Recipe) -> None:
    """Raise UsageError where a vocabulary that is cut would get a prompt too: one plan could not tell their tokens."""
    learner = None if recipe.learner is None else parse_spec("training", recipe.learner)
    if learner is not None and learner.adds_tokens:
        raise UsageError("cut tokens in one compilation, and learn a prompt of its result in the next")


def later_kinds(options: CompileOptions, recipe: Recipe) -> tuple[str, ...]:
    """What the passes prune: all kinds named but the vocabulary; none where its size is all that was asked for."""
    only = options.target[0] == "--vocabulary"
    return () if only else tuple(kind for kind in recipe.prune.kinds if kind != "vocabulary")


def later_aim(options: CompileOptions, aim: Aim, graph: Graph) -> Aim:
    """The aim for the passes that start from this graph: what it may cost is as before."""
    now = cost_of_graph(aim.target.quantity, graph)
    prune = replace(aim.recipe.prune, kinds=later_kinds(options, aim.recipe))
    recipe = aim.recipe.model_copy(update={"prune": prune})
    return replace(aim, target=Target(aim.target.quantity, min(aim.target.most, now), now), recipe=recipe)


@contextlib.contextmanager
def begin(options: CompileOptions, aim: Aim, source: Graph, progress: Progress) -> Iterator[Beginning]:
    """Cut the vocabulary where that is asked for; the tokenizer made for it lasts as long as the context.

    Raises UsageError where the tokenizer cannot be changed, BudgetError where too little would be left.
    """
    with tempfile.TemporaryDirectory(prefix="graphprune-") as name:
        if cuts_vocabulary(options, aim.recipe):
            require_no_prompt(aim.recipe)
            yield shortened(options, aim, source, Path(name), progress)
        else:
            yield Beginning(source, aim, folder=Path(name))


def shortened(options: CompileOptions, aim: Aim, source: Graph, folder: Path, progress: Progress) -> Beginning:
    group = vocabulary_group(analyze(source))
    if options.vocabulary is not None:
        parse_size(options.vocabulary, group.units)  # a mistake is told before the text is read
    ranking = rank_tokens(source, training_part(options.data, options.held_out), options.field, progress)
    count = choose_count(ranking, group, options.vocabulary, *room(options, aim, source))
    if count == group.units:
        return Beginning(source, later_aim(options, aim, source), counted=True)
    kept = ranking.keep(count)
    graph, left_out = cut_vocabulary(source, kept, folder, aim.recipe.prune.statistics)
    assert source.source.files is not None
    require_same_texts(source.source.files, folder, held_out_part(options.data, options.held_out), options.field)
    counted = sum(ranking.counts)
    covered = sum(ranking.counts[id] for id in kept) / counted if counted else None
    step = Step(f"vocabulary{{tokens={count}}}", None, source.parameter_count(), graph.parameter_count())
    cut = VocabularyCut(group.units, count, counted, covered, left_out)
    base = replace(graph.record(step), lineage=Lineage())
    return Beginning(base, later_aim(options, aim, base), cut, graph.lineage, counted=True)


@contextlib.contextmanager
def planned_vocabulary(source: Graph, plan: Plan) -> Iterator[tuple[Graph, VocabularyCut | None]]:
    """The source with the tokens that a saved plan keeps, and what was cut; the source where it keeps all.

    Where the plan appends a prompt its files are for that, and its tokens as they were.
    """
    prompt, rows = prompt_size(plan), vocabulary_size(source)
    if prompt and rows is not None:
        with tempfile.TemporaryDirectory(prefix="graphprune-") as name:
            yield replace(source, source=prompted_source(source.source, rows, prompt, Path(name))), None
        return
    group = next((g for g in analyze(source).groups if g.kind == "vocabulary" and g.id in plan.keep), None)
    if group is None:
        yield source, None
        return
    kept = plan.keep[group.id]
    with tempfile.TemporaryDirectory(prefix="graphprune-") as name:
        graph, left_out = cut_vocabulary(source, kept, Path(name), plan.statistics)
        yield graph, VocabularyCut(group.units, len(kept), 0, None, left_out)


def room(options: CompileOptions, aim: Aim, source: Graph) -> tuple[int, bool, Budget]:
    """The tokens that the target has room for, whether nothing else is cut, and the limits on widths."""
    groups, prune = analyze(source), aim.recipe.prune
    fit = fitting_count(groups, vocabulary_group(groups), aim.target.quantity, aim.target.most)
    step = 1 if isinstance(options.round_to, str) else prune.round_to or 1
    budget = Budget(aim.target.most, prune.min_units, prune.floor or 0.0, step)
    return fit, not later_kinds(options, aim.recipe), budget


def shorten_evenly(options: CompileOptions, aim: Aim, source: Graph) -> tuple[Graph, Aim]:
    """The same for a dry run, which reads no text: so many tokens, whichever they are. Raises UsageError."""
    group = vocabulary_group(analyze(source))
    require_no_prompt(aim.recipe)
    fit, alone, budget = room(options, aim, source)
    if options.vocabulary is None and not alone:
        raise UsageError("--dry-run reads no text, which decides how many tokens stay; give --vocabulary N")
    even = Ranking((1,) * group.units, tuple((id, 1) for id in range(group.units - 1, 0, -1)))
    count = choose_count(even, group, options.vocabulary, fit, alone, budget)
    graph = apply(source, Plan({group.id: tuple(range(count))})) if count < group.units else source
    return graph, later_aim(options, aim, graph)


def vocabulary_measures(cut: VocabularyCut | None, before: Text | None, after: Text | None) -> tuple[Measure, ...]:
    """Tokens in all, and tokens a byte of the held-out text."""
    if cut is None:
        return ()
    rates = [len(text.held_out) / text.held_out_bytes if text else None for text in (before, after)]
    return (Measure("vocabulary", cut.before, cut.after), Measure("held-out tokens per byte", rates[0], rates[1]))


def vocabulary_notes(cut: VocabularyCut | None, data: str) -> tuple[str, ...]:
    """What the user should know of the tokens that went."""
    if cut is None or cut.after == cut.before:
        return ()
    notes = []
    if cut.covered is not None:
        notes.append(
            f"{cut.after:,} of {cut.before:,} tokens are left; they are {cut.covered:.2%} of the {cut.counted:,} "
            "tokens counted, and spell the others"
        )
        if data == CompileOptions.data:
            notes.append("tokens were counted in Python's own library; give --data with the text the model is for")
    if cut.left_out:
        names = ", ".join(cut.left_out)
        notes.append(f"tokenizer.json holds the tokens that are left; left out, since they hold all: {names}")
    return tuple(notes)
