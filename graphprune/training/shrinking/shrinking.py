"""Shrinking: a training in which units are switched off by gates, and cut out when enough of them are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor, fx

from graphprune.analysis.analyse import analyze
from graphprune.analysis.linear_calls import read_call
from graphprune.budget.budgets import Budget, cost_of, free_widths
from graphprune.gates.gated import gate
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.pruning.signals.unit_sums import lay_out
from graphprune.pruning.sparsity.bound_units import bind_units, pool_scores
from graphprune.training.adapters import Trainee, whole
from graphprune.training.learning.learner import Kept, Learning
from graphprune.training.shrinking.removal import Course, Step, choose_steps
from graphprune.training.shrinking.saliency import follow, measure_saliency
from graphprune.training.shrinking.takeover import Reader, find_readers, second_moment, take_over


@dataclass(frozen=True, eq=False)
class Aim:
    """Where a shrinking goes and how: what the model cost at first, what it may cost after so many `steps`.

    `budget.least` names every group that may shrink, by its id in the source. The rest is as `LeastSalient` has it.
    """

    budget: Budget
    start: int
    steps: int
    every: int
    memory: float
    solves: bool
    damping: float
    batch: float
    factors: Mapping[str, float]

    def cost_after(self, done: int) -> int:
        """What the model may cost after so many steps: it falls evenly, to the target in the last."""
        return self.start - (self.start - self.budget.target) * done // self.steps

    def due(self, done: int) -> bool:
        """Whether units go after so many steps."""
        return done % self.every == 0 or done == self.steps


@dataclass(frozen=True, eq=False)
class Seen:
    """What is remembered from one cut to the next: saliency [units] by the groups' ids in the source, second moments
    [k, k] by what linear calls read, and a line of the log for each batch that was cut out.

    A line says after which step it was, what the model costs then, and for each kind how many units went, and what the
    last of them counted for what it saved.
    """

    saliency: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    log: tuple[Mapping[str, Any], ...] = ()


@final
class Shrunk(Learning):
    """What goes on when the target is met: all weights are trained, and what went is remembered."""

    def __init__(self, graph: Graph, log: Sequence[Mapping[str, Any]]) -> None:
        self.made, self.log = whole(graph), tuple(log)

    @property
    def trainee(self) -> Trainee:
        return self.made

    def remarks(self) -> Mapping[str, float]:
        return counts_of(self.log)

    def state(self) -> Kept:
        return Kept(plain={"log": list(self.log)})

    def load(self, kept: Kept) -> None:
        self.log = tuple(kept.plain["log"])


@final
class Shrinking(Learning):
    """All weights, and gates that are on or off: a unit that is off has no effect and no gradient."""

    runs_plain = False

    def __init__(self, graph: Graph, aim: Aim, seen: Seen) -> None:
        groups, self.root = bind_units(graph, analyze(graph)), graph.lineage.root
        self.aim, self.log = aim, seen.log
        bounds = aim.budget.least
        self.candidates = tuple(g for g in groups.prunable() if self.root(g.id) in bounds)
        budget = replace(aim.budget, least={g.id: bounds[self.root(g.id)] for g in self.candidates})
        widths = free_widths(self.candidates, budget)
        self.course = Course(widths, cost_of(groups, budget), groups.sizes())
        self.plain = whole(graph)
        self.gated = gate(self.plain.graph, self.candidates, "survivors")
        self.layout = lay_out(self.plain.graph, self.candidates)
        self.live = {g.id: torch.ones(g.units, dtype=torch.bool) for g in self.candidates}
        roots = {g.id: self.root(g.id) for g in self.candidates}
        self.saliency = {id: seen.saliency[root] for id, root in roots.items() if root in seen.saliency}
        self.readers = find_readers(self.plain.graph, self.candidates) if aim.solves else ()
        self.moments = dict(seen.moments)
        self.reads = expose(self.gated.module, self.readers)
        self.gone: dict[str, list[Any]] = {}
        self.done = 0

    @property
    def trainee(self) -> Trainee:
        outputs = (*self.plain.graph.outputs, *self.reads)
        return replace(self.plain, graph=replace(self.plain.graph, module=self.gated.module, outputs=outputs))

    def terms(self, outputs: Mapping[str, Tensor], labels: Tensor) -> Mapping[str, Tensor]:
        """Nothing is added to the loss; what linear calls read is seen on the way."""
        found = {name: second_moment(outputs[name]) for name in self.reads}
        self.moments |= follow(self.moments, found, self.aim.memory)
        return {}

    def after_backward(self, step: int) -> None:
        now = measure_saliency(self.layout, self.plain.trainable)
        self.saliency = follow(self.saliency, now, self.aim.memory)

    def after_step(self, done: int) -> Plan | None:
        self.done = done
        if not self.aim.due(done):
            return None
        target = self.aim.budget.target
        counted = {g.id: self.saliency[g.id] * self.aim.factors.get(g.kind, 1.0) for g in self.candidates}
        saliency = pool_scores(self.plain.graph, self.candidates, counted)
        steps = choose_steps(self.course, self.live, saliency, self.aim.cost_after(done), target)
        self.switch_off(steps)
        now, whole_cost = self.cost(), self.course.cost(self.course.sizes)
        enough = whole_cost - now >= self.aim.batch * self.aim.start or now <= target or done == self.aim.steps
        return self.plan() if enough and now < whole_cost else None

    def cost(self) -> int:
        """What the model costs without what is off."""
        return self.course.cost(self.course.sizes_with(self.live))

    def switch_off(self, steps: Sequence[Step]) -> None:
        """Have the units of these steps count for nothing from now on."""
        chosen = {id: torch.zeros_like(mask) for id, mask in self.live.items()}
        for step in steps:
            for id, units in step.units.items():
                chosen[id][list(units)] = True
            count = sum(map(len, step.units.values()))
            self.gone[step.kind] = [self.gone.get(step.kind, [0])[0] + count, step.saliency]
        self.live = {id: mask & ~chosen[id] for id, mask in self.live.items()}
        for reader in self.readers:
            self.take_over(reader, chosen)
        self.set_gates()

    def take_over(self, reader: Reader, chosen: Mapping[str, Tensor]) -> None:
        """Have what a call still reads stand in for what it read of units that were chosen to go."""
        moment = self.moments.get(name_of(reader))
        gone = reader.inputs({id: chosen[id] for id in reader.owners}, False)
        if moment is None or not bool(gone.any()):
            return
        left = reader.inputs({id: self.live[id] for id in reader.owners}, True)
        weight = self.plain.trainable[reader.call.weight]
        with torch.no_grad():
            matrix = reader.call.matrix(weight.detach())
            take_over(matrix, moment, gone.to(moment.device), left.to(moment.device), self.aim.damping)

    def set_gates(self) -> None:
        for id, mask in self.live.items():
            old = getattr(self.gated.module, self.gated.buffers[id])
            setattr(self.gated.module, self.gated.buffers[id], mask.to(old).unsqueeze(0))

    def plan(self) -> Plan:
        """What cuts out all that is off."""
        keep = {id: tuple(torch.nonzero(mask).flatten().tolist()) for id, mask in self.live.items() if not mask.all()}
        return Plan(keep, (), "survivors")

    def resumed(self, graph: Graph, plan: Plan) -> Learning:
        kept = {id: torch.ones_like(mask) for id, mask in self.live.items()}
        for id, units in plan.keep.items():
            kept[id] = torch.zeros_like(kept[id]).index_fill(0, torch.tensor(units), True)
        saliency = {self.root(id): value[kept[id]] for id, value in self.saliency.items()}
        moments = dict[str, Tensor]()
        for reader in self.readers:
            name = name_of(reader)
            if name in self.moments and name not in moments:
                stay = reader.inputs({id: kept[id] for id in reader.owners}, True).to(self.moments[name].device)
                moments[name] = self.moments[name][stay][:, stay]
        cost = cost_of(groups := analyze(graph), self.aim.budget)(groups.sizes())
        log = (*self.log, {"step": self.done, "cost": cost, "gone": self.gone})
        if cost <= self.aim.budget.target:
            return Shrunk(graph, log)
        return Shrinking(graph, self.aim, Seen(saliency, moments, log))

    def remarks(self) -> Mapping[str, float]:
        """What share of the first cost is left, and how many units of each kind are gone."""
        return {"left": self.cost() / self.aim.start, **counts_of((*self.log, {"gone": self.gone}))}

    def state(self) -> Kept:
        tensors = {f"saliency/{id}": value for id, value in self.saliency.items()}
        tensors |= {f"live/{id}": mask for id, mask in self.live.items()}
        tensors |= {f"moments/{name}": value for name, value in self.moments.items()}
        return Kept(tensors, {"log": list(self.log), "gone": self.gone, "done": self.done})

    def load(self, kept: Kept) -> None:
        parts: dict[str, dict[str, Tensor]] = {"saliency": {}, "live": {}, "moments": {}}
        for name, tensor in kept.tensors.items():
            kind, _, key = name.partition("/")
            parts[kind][key] = tensor
        device = next(iter(self.plain.trainable.values())).device
        self.saliency, self.live = parts["saliency"], parts["live"]
        self.moments = {name: tensor.to(device) for name, tensor in parts["moments"].items()}
        self.log, self.done = tuple(kept.plain["log"]), kept.plain["done"]
        self.gone = {kind: list(found) for kind, found in kept.plain["gone"].items()}
        self.set_gates()


def counts_of(log: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How many units of each kind a log tells of."""
    found = dict[str, float]()
    for line in log:
        for kind, (count, _) in line["gone"].items():
            found[kind] = found.get(kind, 0.0) + count
    return found


def name_of(reader: Reader) -> str:
    """The output under which what a reader reads is seen."""
    return f"read.{reader.source}"


def expose(module: fx.GraphModule, readers: Sequence[Reader]) -> tuple[str, ...]:
    """Have a module of nodes return what each of these calls reads as well, once; the names of what is added."""
    nodes = {node.name: node for node in module.graph.nodes}
    found = {name_of(reader): read_call(nodes[reader.call.node.name]) for reader in readers}
    inputs = {name: call.x for name, call in found.items() if call is not None}
    output = module.graph.output_node()
    output.args = ((*output.args[0], *inputs.values()),)  # type: ignore[misc]
    module.recompile()
    return tuple(inputs)
