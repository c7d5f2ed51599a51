"""Self-Pruner: how much each layer keeps, by an evolutionary search whose fitness is the loss of the masked model."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import ClassVar, final

import torch
from torch import Tensor

from graphprune.bounds import Count
from graphprune.budget.budgets import check_reachable, cost_of, free_widths
from graphprune.budget.solver import solve
from graphprune.errors import UsageError
from graphprune.gates.gated import Gated, gate
from graphprune.passes.allocation.evolve import rows_of
from graphprune.passes.allocation.knapsack import first_rows
from graphprune.pruning.interfaces import Allocation, Allotment, Scene
from graphprune.pruning.kept_scores import name_scene
from graphprune.pruning.proposers.answers import Answers
from graphprune.pruning.proposers.endpoint_writer import is_address, open_endpoint, require_address
from graphprune.pruning.proposers.folder_writer import open_folder, require_folder
from graphprune.pruning.proposers.language import LanguageProposer
from graphprune.pruning.search.journal import Journal
from graphprune.pruning.search.mask_probe import MaskProbe
from graphprune.pruning.search.rates import Breeding, Mean, Proposer, Rates, Schedule, search_rates
from graphprune.pruning.selection import select
from graphprune.pruning.shares import amounts, even_counts, refused

_SHOWN = 4  # questions that the report has, with their answers


@final
@dataclass(frozen=True)
class SelfPruner(Allocation):
    """Search for the share of its units that each layer keeps, for the least loss of the masked model.

    A population of rates, one for each layer, begins with even ones, ramps and protected ends. In every generation
    children are bred, moved to the mean that the budget asks for, and judged: units are kept by their scores, the
    budget is filled exactly, and the model under that mask is run on a part of the calibration text (`tokens`), many
    masks in one forward. The best of parents and children stay. What is outside of layers, such as the residual width,
    keeps its even share. After Self-Pruner (arXiv 2502.14413), with its defaults of population and generations, where
    a language model writes the children: `proposer` is the folder of one, or an address that speaks OpenAI's chat
    completions, such as http://localhost:8000/v1, where `model` is its name. It is asked for each child, and what it
    writes that is no such list is bred instead. Units are ordered once, by scores of the dense model.
    """

    name: ClassVar[str] = "self-pruner"
    needs_data: ClassVar[bool] = True
    searches: ClassVar[bool] = True
    population: Count = 30
    generations: Count = 20
    children: Count = 20
    tokens: Count = 2048
    proposer: str = ""
    model: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_address(self.proposer):
            require_address(self.proposer, self.model)
        elif self.proposer:
            require_folder(Path(self.proposer).expanduser())

    def keep(self, scene: Scene, scores: Mapping[str, Tensor]) -> Allotment:
        if not scene.batches:
            raise UsageError("self-pruner judges models on calibration text; give --data")
        check_reachable(scene.groups, scene.candidates, scene.budget)
        problem = Layers(scene, scores)
        if len(problem.layers) < 2:
            scene.note("self-pruner found fewer than two layers to weigh against each other; shares are even")
            return Allotment(even_counts(scene, scores))
        part = first_rows(scene.batches, rows_of(scene.batches, self.tokens))
        journal = Journal(
            None if scene.folder is None else scene.folder / f"self-pruner-{name_scene(self, scene)}.jsonl"
        )
        probe = MaskProbe(problem.gated, part, scene.loss, journal)
        chance, schedule = Random(scene.seed), Schedule(self.population, self.generations, self.children)
        total = self.population + self.generations * self.children

        def judge(rates: Sequence[Rates], generation: int) -> Sequence[float]:
            scene.progress(self.population + (generation - 1) * self.children if generation else 0, total)
            found: Sequence[float] = probe([problem.mask(each) for each in rates]).tolist()
            return found

        answers = self.answers(scene) if self.proposer else None
        propose: Proposer = Breeding(chance) if answers is None else LanguageProposer(answers)
        best, counts = search_rates(judge, propose, problem.mean, schedule, chance)
        scene.progress(total, total)
        even = float(probe([problem.mask((problem.mean.share,) * len(problem.layers))]))
        said = f"self-pruner judged {counts['judged']} sets of rates; the best has a loss of {best.value:.4f}"
        scene.note(f"{said} on the text it was searched on, even rates {even:.4f}")
        if answers is not None:
            who = f"{answers.asked} answers of {self.model or Path(self.proposer).name}"
            lost = f", {answers.lost} of them as none came" if answers.lost else ""
            scene.note(f"of {who}, {counts['unread']} were no list of rates{lost}")
        shown = [] if answers is None else [[*each] for each in answers.known[: answers.asked][-_SHOWN:]]
        return Allotment(problem.counts(best.rates), {"answers": shown} if shown else {})

    def answers(self, scene: Scene) -> Answers:
        """What the proposer writes to one question after another."""
        path = None if scene.folder is None else scene.folder / f"answers-{name_scene(self, scene)}.jsonl"
        if is_address(self.proposer):
            key = os.environ.get("OPENAI_API_KEY")  # by the environment: a recipe is printed, a key must not be
            return Answers(open_endpoint(self.proposer, self.model, key, scene.seed), path)
        return Answers(open_folder(Path(self.proposer).expanduser(), scene.seed), path)


@dataclass(frozen=True, eq=False)
class Layers:
    """A scene as layers that keep shares of their units."""

    scene: Scene
    scores: Mapping[str, Tensor]

    @cached_property
    def layer_of(self) -> Mapping[str, int]:
        """The layer of each candidate that is in one."""
        numbers = {branch.id: branch.layer for branch in self.scene.groups.branches}
        found = {group.id: numbers.get(group.block or "") for group in self.scene.candidates}
        return {id: layer for id, layer in found.items() if layer is not None}

    @cached_property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.layer_of.values())))

    @cached_property
    def gated(self) -> Gated:
        return gate(self.scene.graph, self.scene.candidates, "survivors")

    @cached_property
    def full(self) -> Mapping[str, int]:
        return {group.id: self.scene.full(group) for group in self.scene.candidates}

    @cached_property
    def mean(self) -> Mean:
        """What layers keep on average where all keep the same and the budget is met; sizes are what they cost whole."""
        widths = free_widths(self.scene.candidates, self.scene.budget)
        steps = amounts(widths, self.scores, self.full, {})
        cut = refused(widths, steps, solve(self.scene.groups, widths, steps, self.scene.budget))
        cost, sizes = cost_of(self.scene.groups, self.scene.budget), self.scene.groups.sizes()
        least = dict.fromkeys(self.layer_of, 0)
        own = [
            cost(sizes) - cost({**sizes, **{id: 0 for id in least if self.layer_of[id] == layer}})
            for layer in self.layers
        ]
        return Mean(1 - cut, tuple(float(max(1, each)) for each in own))

    def counts(self, rates: Rates) -> dict[str, int]:
        """The counts nearest to these rates that fill the budget: all give up as much more or less as it takes."""
        given = dict(zip(self.layers, rates, strict=True))
        cut = {g.id: 1 - given.get(self.layer_of.get(g.id, -1), self.mean.share) for g in self.scene.candidates}
        widths = free_widths(self.scene.candidates, self.scene.budget)
        steps = amounts(widths, self.scores, self.full, cut)
        return solve(self.scene.groups, widths, steps, self.scene.budget)

    def mask(self, rates: Rates) -> dict[str, Tensor]:
        """The mask of the model that these rates make."""
        plan = select(self.scene.groups, self.counts(rates), self.scores)
        like = next(iter(self.scene.graph.parameters().values()))
        mask = {g.id: torch.ones(g.units, dtype=like.dtype, device=like.device) for g in self.scene.candidates}
        for id in plan.dropped:
            if id in mask:
                mask[id][:] = 0
        for id, units in plan.keep.items():
            mask[id] = torch.zeros_like(mask[id]).index_fill(0, torch.tensor(units, device=like.device), 1)
        return mask
