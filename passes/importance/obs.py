"""Surgeon importance: the loss that removing a unit costs after the weights that are left have made up for it."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from graphprune.analysis.groups import Group
from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.errors import UsageError
from graphprune.pruning.interfaces import Importance, Scene
from graphprune.pruning.signals.curvature import measure_curvature
from graphprune.pruning.signals.elimination import Consumer, eliminate

Reading = tuple[LinearCall, int]


@final
@dataclass(frozen=True)
class Obs(Importance):
    """Optimal brain surgeon for units: the rise of the loss, in nats a token, when a unit goes and others replace it.

    Units are taken out one by one, cheapest first, and the linear calls that read them are solved anew in thought each
    time (ZipLM, arXiv 2302.04089), the loss being seen through the gradients of the calls' outputs (K-FAC). So a unit
    that others can stand in for costs little, however large it is. Goes with `compensation=least-squares`, which really
    solves the weights. Scores are in one currency for all groups: `global{normalize=none}` can compare them.

    For units that linear calls read: MLP channels, heads, value dimensions, residual width. Matrices [k, k] and [o, o]
    of all calls are held at once, in float64. `damping` is relative to each input's own energy; `rounds`
    limits how often costs are computed anew.
    """

    name: ClassVar[str] = "obs"
    needs_data: ClassVar[bool] = True
    damping: float = 0.01
    rounds: int = 128

    def __post_init__(self) -> None:
        if self.damping < 0 or self.rounds < 1:
            raise UsageError(f"obs takes damping of 0 or more and 1 round or more, not {self.damping}, {self.rounds}")

    def score(self, scene: Scene) -> dict[str, Tensor]:
        graph, groups = scene.graph, scene.candidates
        if not scene.batches:
            raise UsageError("obs needs calibration text; give --data")
        calls = {call.weight: call for call in find_linear_calls(graph, shared=True)}
        solved = {call.weight for call in find_linear_calls(graph)}
        read = {group.id: readings(group, calls) for group in groups}
        for group in groups:
            if not read[group.id]:
                raise UsageError(f"obs can not score {group.id} ({group.kind}): no linear call reads it; use taylor")
        needed = {call.node.name: call for found in read.values() for call, _ in found}
        curvature = measure_curvature(graph, list(needed.values()), scene.batches, scene.loss)
        tensors, result = graph.tensors(), dict[str, Tensor]()
        for group in groups:
            consumers = []
            for call, slot in read[group.id]:
                seen = curvature[call.node.name]
                pulled = seen.pull_back(call.matrix(tensors[call.weight].detach()))
                owner = group.slots[slot].owner
                consumers.append(Consumer(owner, seen.inputs.double().cpu(), pulled.cpu(), call.weight in solved))
            result[group.id] = eliminate(group.units, consumers, self.damping, self.rounds).float()
        return result


def readings(group: Group, calls: dict[str, LinearCall]) -> list[Reading]:
    """The calls that read the group's units, each with the slot that says which inputs a unit is."""
    return [
        (calls[slot.name], index)
        for index, slot in enumerate(group.slots)
        if slot.name in calls and slot.dim == (0 if calls[slot.name].transposed else 1)
    ]
