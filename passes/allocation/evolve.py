"""Evolve: the counts whose model, put together from solved levels, comes nearest to the dense one (after Týr)."""

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import ClassVar, Literal, NamedTuple, final

import torch
from torch import Tensor

from graphprune.analysis.layers import find_layers
from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.budget.budgets import check_reachable
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Lineage
from graphprune.passes.allocation.adaptive import Adaptive
from graphprune.passes.allocation.knapsack import first_rows
from graphprune.pruning.interfaces import Allocation, Allotment, Scene
from graphprune.pruning.kept_scores import name_scene
from graphprune.pruning.reconstruct import reconstruct
from graphprune.pruning.ridge import Ridge
from graphprune.pruning.search.candidates import Candidates
from graphprune.pruning.search.divergence import measure_dense, tokens_in
from graphprune.pruning.search.evolution import Effort, Found, Genes, Space, evolve
from graphprune.pruning.search.journal import Journal
from graphprune.pruning.search.library import LevelSolver, Library, library_key
from graphprune.pruning.search.problem import Counts, Grid, Problem, Start, near_grid, whole_grid
from graphprune.pruning.search.shared_out import Rates, WholeModels, by_quality
from graphprune.pruning.search.surrogate import measure_alone, proposals
from graphprune.pruning.selection import select
from graphprune.pruning.sparsity.solutions import LevelledSolutions
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import Batch, rows
from graphprune.weights.patterns import kept_entries

_EFFORTS: Mapping[str, Effort] = {
    "quick": Effort(generations=0, offspring=0, close=0, parents=1, glance=0.25),
    "normal": Effort(generations=2, offspring=8, close=2, parents=2, glance=0.5),
    "thorough": Effort(generations=6, offspring=10, close=3, parents=3, glance=0.5),
}
_STEP = 1 / 16  # of the full width, between the levels of the first library
# Libraries with finer steps around the best so far.
_FINER: Mapping[str, tuple[float, ...]] = {"quick": (), "normal": (), "thorough": (1 / 32,)}
_JUDGED, _MEASURED = 4096, 16384  # tokens that models are judged on, and that layers are measured on
_REACH = 4  # levels from where a search begins
_CALM = 2.5  # layers that cuts are worth, up to which levels are solved on the source's own inputs: docs/decisions/0067
_AMPLITUDE = 0.6  # as in adapt-pruner-ls
_NONE = Effort(generations=0, offspring=0, close=0, parents=1, glance=0.5)
# What widths outside of branches, such as the residual width, give up of what others do: a model is made for each of
# these, and the best so many are searched from.
_OUTSIDE: Mapping[str, tuple[float, ...]] = {
    "quick": (0.25, 0.5),
    "normal": (0.125, 0.25, 0.5),
    "thorough": (0.125, 0.25, 0.5),
}
_SEARCHES: Mapping[str, int] = {"quick": 1, "normal": 2, "thorough": 2}


class Texts(NamedTuple):
    """The calibration text in two parts: to solve levels on, and to judge closely; at a glance on some of these."""

    solved: Sequence[Batch]
    close: Sequence[Batch]
    glance: Sequence[Batch]


@final
@dataclass(frozen=True)
class Evolve(Allocation):
    """Choose counts by evolution over levels that are solved beforehand, for the least divergence from the dense model.

    The start is what `adaptive` gives. For each group that one linear call reads, such as heads and MLP channels, a
    library has the weight of that call at sixteenths of its width, solved on inputs that carry the errors of earlier
    groups cut as far as expected: by the amount of the start, rounded to a sixteenth, so that targets near to each
    other have one library. Where all that is cut is worth two layers and a half at most, it is solved on the source's
    own inputs: what is solved for errors that a candidate does not have speaks for the start. `carry` has it one way.
    Residual branches, or layers, that may go are searched too. Models put together from
    these are judged by the KL divergence of their top logits from the dense model's, on a quarter of the calibration
    rows (of 4,096 tokens at most), unseen by the library: all on some of these, the best of a generation on all of
    them. What each width does alone is measured first, and the best sums of that are where evolution starts from. Then
    a library with finer steps is made around the best, and so on. Other widths, such as the residual width, are set
    beforehand: of a few shares that they might take, those whose models are best when they are cut and solved in full,
    two unless `effort` is `quick`, are each searched from. In the end the exact budget is filled up. `effort` says how
    many models are judged; `search=false` takes the better start. `library` is a folder that keeps levels for later
    searches. After Týr (arXiv 2503.09657), which zeroes query heads: here whole groups go.
    """

    name: ClassVar[str] = "evolve"
    needs_data: ClassVar[bool] = True
    searches: ClassVar[bool] = True
    effort: Literal["quick", "normal", "thorough"] = "normal"
    carry: bool | None = None
    search: bool = True
    library: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.library:
            require_writable(Path(self.library).expanduser())

    def keep(self, scene: Scene, scores: Mapping[str, Tensor]) -> Allotment:
        if not scene.batches:
            raise UsageError("evolve solves levels and judges models on calibration text; give --data")
        check_reachable(scene.groups, scene.candidates, scene.budget)
        problem, texts = Problem(scene, scores), split(scene.batches, _EFFORTS[self.effort].glance)
        if not problem.readers:
            scene.note("evolve found no width that a single call reads, so nothing is searched: shares are adaptive's")
            return Adaptive(_AMPLITUDE, outside=0.25).keep(scene, scores)
        with kept_in(scene.folder) as folder:
            journal = Journal(folder / "search.jsonl")
            rates = self.choose_rates(problem, texts, journal, Journal(folder / "rates.jsonl"))
            found = [self.search_from(problem, problem.start(each), texts, folder, journal) for each in rates]
        (best, counts), own = min(zip(found, rates, strict=True), key=lambda each: each[0][0].value)
        scene.note(
            f"evolve judged {len(journal.asked):,} models; the best is {best.value:.4f} nats a token from the source"
        )
        return Allotment(problem.fill(counts, own))

    def choose_rates(self, problem: Problem, texts: Texts, journal: Journal, kept: Journal) -> Sequence[Rates]:
        """How fast groups give up their units, for the shares of widths outside of branches that are searched from."""
        scene = problem.scene
        dense = replace(scene.graph, lineage=Lineage())
        close = measure_dense(dense, texts.close, scene.loss)

        def judge(at: Problem, counts: Counts) -> float:
            return WholeModels(dense, at, texts.solved, close, journal, scene.progress)(counts)

        return by_quality(problem, rates_of(scene, _OUTSIDE[self.effort], kept), judge)[: _SEARCHES[self.effort]]

    def search_from(
        self, problem: Problem, start: Start, texts: Texts, folder: Path, journal: Journal
    ) -> tuple[Found, Counts]:
        """The best model found from a start on, with the widths that are not searched as they are, in rounds."""
        grid = whole_grid(problem, start.expected, _STEP)
        found, counts = self.search_on(problem, grid, start, texts, folder, journal)
        for step in _FINER[self.effort]:
            again = Start(counts, counts, start.amount)
            found, counts = self.search_on(problem, near_grid(problem, counts, step), again, texts, folder, journal)
        return found, counts

    def search_on(
        self, problem: Problem, grid: Grid, start: Start, texts: Texts, folder: Path, journal: Journal
    ) -> tuple[Found, Counts]:
        """The best model of the library of a grid."""
        scene, expected = problem.scene, grid.at(grid.genes(start.expected))
        carry = len(find_layers(scene.groups)) * start.amount > _CALM if self.carry is None else self.carry
        dense = replace(scene.graph, lineage=Lineage())
        cut = apply(dense, select(scene.groups, grid.fixed, problem.scores))
        parts = grid.parts(cut, expected)
        levels = {part.call.weight: part.levels for part in parts}
        kept = {f"kept of {name}": entries for name, entries in kept_entries(cut.companions).items()}
        library = Library(
            self.home(folder) / library_key({**cut.tensors(), **kept}, texts.solved, levels, f"carry={carry}")
        )
        solved = make_library(dense, cut, LevelSolver(library, levels, Ridge(None, torch.float32)), texts, scene, carry)
        close, glance = (
            replace(measure_dense(dense, part, scene.loss), graph=solved) for part in (texts.close, texts.glance)
        )
        judges = [Candidates(cut, solved, library, parts, grid.blocks, glance, close, journal) for _ in range(2)]
        here, starts = grid.genes(start.expected), [grid.within(start.counts)]
        if self.search:
            starts += propose_all(grid.space, here, judges.pop(), scene)
        effort = _EFFORTS[self.effort] if self.search else _NONE
        found = evolve(grid.space, starts, judges[0], effort, Random(scene.seed), scene.progress)
        return found, grid.at(found.genes)

    def home(self, folder: Path) -> Path:
        return Path(self.library).expanduser() if self.library else folder / "library"


def make_library(dense: Graph, start: Graph, solver: LevelSolver, texts: Texts, scene: Scene, carry: bool) -> Graph:
    """The start with all its calls solved, those of the library at their expected levels."""
    names = {node.name for node in dense.nodes}
    calls = [call for call in find_linear_calls(start) if call.node.name in names]
    tensors = start.tensors()
    inputs = {call.weight: call.matrix(tensors[call.weight]).shape[1] for call in calls}
    known = LevelledSolutions(solver.library, solver.levels, inputs)
    return reconstruct(
        dense, start, calls, solver, texts.solved, sequential=carry, progress=scene.progress, solutions=known
    )


def rates_of(scene: Scene, outside: Sequence[float], kept: Journal) -> Sequence[Rates]:
    """How fast each group gives up its units, for each share that those outside of branches do.

    What layers change the stream by is of the source alone, so that it is kept for all sizes.
    """
    seen = replace(scene, batches=first_rows(scene.batches, rows_of(scene.batches, _MEASURED)))
    adaptive = Adaptive(_AMPLITUDE)
    source, measured = name_scene(adaptive, seen), functools.cache(lambda: adaptive.rates(seen))

    def rate(id: str) -> float:
        return kept.value({"source": source, "group": id}, lambda: measured()[id])

    found = {group.id: rate(group.id) for group in scene.candidates}
    loose = {group.id for group in scene.candidates if group.block is None}
    return [{id: share if id in loose else rate for id, rate in found.items()} for share in outside]


def rows_of(batches: Sequence[Batch], tokens: int) -> int:
    """How many rows have so many tokens together, one at least."""
    return max(1, tokens * sum(map(rows, batches)) // max(1, tokens_in(batches)))


def propose_all(space: Space, here: Genes, judge: Candidates, scene: Scene) -> Sequence[Genes]:
    """The best sums of what each width does alone, seen from where a library is expected."""
    judge(here, True)  # so that others are run from where they differ from it
    curves = measure_alone(space, here, judge, scene.progress, _REACH)
    return tuple(proposals(space, here, curves, _REACH).values())


def require_writable(folder: Path) -> None:
    """Raise UsageError where no files can be written into a folder, which need not be there yet."""
    found = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not found.is_dir() or not os.access(found, os.W_OK):
        raise UsageError(f"evolve keeps levels in a folder that it can write; library={folder} is none")


def split(batches: Sequence[Batch], share: float) -> Texts:
    """A quarter of the rows to judge on, 4,096 tokens at most, a share of it at a glance; one batch alone is all."""
    close = first_rows(batches, max(1, min(sum(map(rows, batches)) // 4, rows_of(batches, _JUDGED))))
    glance = first_rows(close, max(1, int(share * sum(map(rows, close)))))
    return Texts(batches[len(close) :] or close, close, glance)


@contextlib.contextmanager
def kept_in(folder: Path | None) -> Iterator[Path]:
    """The folder of the run, or one for the time being."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="graphprune-evolve-") as made:
        yield Path(made)
