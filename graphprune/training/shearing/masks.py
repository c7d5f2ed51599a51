"""The learner of masks: hard-concrete gates on groups and layers, trained with the weights, folded into them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Group
from graphprune.bounds import Positive, Share, Whole
from graphprune.errors import PlanError, UsageError
from graphprune.gates.fold import fold, folds_of
from graphprune.gates.gated import Gated, gate
from graphprune.gates.hard_concrete import LEAST, MOST, TEMPERATURE, draw_factors, settled_factors
from graphprune.ir.graph import Graph
from graphprune.pruning.candidates import free_blocks
from graphprune.training.adapters import Trainee, whole
from graphprune.training.learning.learner import Kept, Learner, Learning, Rate
from graphprune.training.options import TrainOptions
from graphprune.training.shearing.constraint import lagrangian, ramp, sparsity
from graphprune.training.shearing.gate_sets import GateSet, sets_of

_START, _SPREAD = 5.0, 0.01  # positions to begin with: nearly every gate is open
_LONG, _SHORT = 1000, 640  # steps: from so many masks may go fast, and below so few they have to


@final
@dataclass(frozen=True)
class HardConcrete(Learner):
    """Train masks with the weights until `keep` is met, and cut what they leave.

    `keep` are ids of groups with the units that stay, `model.layers.0.mlp.up_proj.weight:0=12`, and `layers` how many
    layers stay, 0 for all. Targets rise from 0 over the first `ramp` of the steps. Without `mask_lr` masks go at 1.0,
    in trainings below 1,000 steps at 0.1, and faster again below 640, where they would not arrive.
    Source: Sheared LLaMA, arXiv 2310.06694.
    """

    name: ClassVar[str] = "hard-concrete"
    keep: tuple[str, ...] = ()
    layers: Whole = 0
    temperature: Positive = TEMPERATURE
    ramp: Share = 0.2
    mask_lr: Positive | None = None
    multiplier_lr: Positive = 1.0

    def begin(self, graph: Graph, options: TrainOptions) -> Learning:
        groups, counts = analyze(graph), dict(map(read_count, self.keep))
        blocks = free_blocks(groups, ("layers",), {}) if self.layers else ()
        unknown = next((id for id in counts if id not in groups.by_id()), None)
        if unknown is not None:
            raise UsageError(f"hard-concrete: there is no group {unknown[:80]}; `graphprune inspect` names all")
        candidates = (*(groups[id] for id in counts), *blocks)
        sets = sets_of(candidates, counts, self.layers, self.temperature)
        if not sets:
            raise UsageError("hard-concrete has nothing to learn: every unit is to stay; lower the target")
        return Shearing(graph, candidates, sets, self, options)

    def mask_rate(self, steps: int) -> float:
        """The learning rate of positions, at its highest."""
        if self.mask_lr is not None:
            return self.mask_lr
        return 1.0 if steps >= _LONG else 0.1 * max(1.0, _SHORT / max(1, steps))


def read_count(text: str) -> tuple[str, int]:
    """A group and how many of its units stay. Raises UsageError."""
    id, _, count = text.rpartition("=")
    if not id or not count.isdecimal() or int(count) < 1:
        raise UsageError(f"hard-concrete: {text[:80]!r} is no group and the units that stay; write ID=12")
    return id, int(count)


@final
class Shearing(Learning):
    """Weights, positions of gates, and multipliers that ascend; the gates are drawn anew for every part of a step."""

    runs_plain = recomputes = False

    def __init__(
        self,
        graph: Graph,
        candidates: Sequence[Group],
        sets: Sequence[GateSet],
        asked: HardConcrete,
        options: TrainOptions,
    ) -> None:
        self.asked, self.options, self.sets = asked, options, tuple(sets)
        ids = {id for each in sets for members in each.members for id in members}
        self.candidates = tuple(group for group in candidates if group.id in ids)
        self.plain = whole(graph)
        self.gated = gate(self.plain.graph, self.candidates, "survivors")
        device = next(iter(self.plain.trainable.values())).device
        self.positions = {s.name: nn.Parameter(begun(s, place, options.seed, device)) for place, s in enumerate(sets)}
        self.multipliers = {s.name: nn.Parameter(torch.zeros(2, device=device)) for s in sets}
        self.progress = 0.0

    @property
    def trainee(self) -> Trainee:
        own = {f"gates/{name}": tensor for name, tensor in self.positions.items()}
        own |= {f"multipliers/{name}": tensor for name, tensor in self.multipliers.items()}
        graph = replace(self.plain.graph, module=self.gated.module)
        return replace(self.plain, graph=graph, trainable={**self.plain.trainable, **own})

    def rates(self) -> Mapping[str, Rate]:
        lr = self.options.lr
        masks = Rate(self.asked.mask_rate(self.options.whole) / lr)
        rising = Rate(self.asked.multiplier_lr / lr, ascends=True)
        return {f"gates/{name}": masks for name in self.positions} | {
            f"multipliers/{name}": rising for name in self.multipliers
        }

    def before_forward(self, step: int, part: int) -> None:
        place = (self.options.first_step + step) * self.options.accumulate + part
        draw = torch.Generator().manual_seed(self.options.seed * 1_000_003 + place)
        for each in self.sets:
            position = self.positions[each.name]
            with torch.no_grad():
                position.clamp_(LEAST, MOST)
            uniform = torch.rand(each.units, generator=draw).to(position.device)
            factors = draw_factors(position, uniform, self.asked.temperature)
            for id, value in each.values(factors).items():
                setattr(self.gated.module, self.gated.buffers[id], value.unsqueeze(0))

    def penalties(self, step: int) -> Mapping[str, Tensor]:
        options = self.options
        self.progress = ramp(options.first_step + step, options.whole, self.asked.ramp)
        found = lagrangian(self.sets, self.positions, self.multipliers, self.progress, self.asked.temperature)
        return {"lagrangian": found}

    def state(self) -> Kept:
        with torch.no_grad():
            gone = {name: float(sparsity(tensor, self.asked.temperature)) for name, tensor in self.positions.items()}
        wanted = {each.name: each.sparsity for each in self.sets}
        return Kept(plain={"sparsity": gone, "targets": wanted})

    def measured(self, graph: Graph) -> Graph:
        return self.finish(self.plain.graph)

    def finish(self, graph: Graph) -> Graph:
        gated = gate(graph, tuple(analyzed(graph, self.candidates)), "survivors")
        values = {id: value for each in self.sets for id, value in self.final_values(gated, each).items()}
        return fold(gated, values)

    def final_values(self, gated: Gated, each: GateSet) -> dict[str, Tensor]:
        """The factors of a set in the end: soft ones where weights can take them, ones where not; zero where it goes.

        Weights that are tied, or read as 1 + w, take none.
        """
        position = (
            self.positions[each.name].detach().clamp(LEAST, MOST).to(next(iter(gated.graph.parameters().values())))
        )
        stay = each.chosen(position)
        values = each.values(stay * settled_factors(position, self.asked.temperature).clamp_min(1e-3))
        hard = each.values(stay)
        return {id: value if takes_soft(gated, id, value) else hard[id] for id, value in values.items()}


def takes_soft(gated: Gated, id: str, value: Tensor) -> bool:
    """Whether weights can take the factors of a candidate."""
    if not bool((value != 0).any()):
        return True
    try:
        return bool(folds_of(gated, id))
    except PlanError:
        return False


def begun(each: GateSet, place: int, seed: int, device: torch.device) -> Tensor:
    """Where the positions of a set begin."""
    draw = torch.Generator().manual_seed(seed * 1_000_003 + place)
    return torch.normal(_START, _SPREAD, (each.units,), generator=draw).clamp(LEAST, MOST).to(device)


def analyzed(graph: Graph, candidates: Sequence[Group]) -> list[Group]:
    """The same candidates in a graph of the same shape."""
    groups = analyze(graph)
    here = {g.id: g for g in (*groups.groups, *free_blocks(groups, ("layers",), {}))}
    return [here[group.id] for group in candidates]
