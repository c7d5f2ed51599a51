"""Surgeon importance: the loss that removing a unit costs after the weights that are left have made up for it."""

import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy
from numpy.typing import NDArray
from torch import Tensor

from graphprune.analysis.groups import Group
from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.bounds import Count, NotNegative, Whole
from graphprune.errors import UsageError
from graphprune.pruning.interfaces import Importance, Scene
from graphprune.pruning.signals.activation_room import segment_ends, shelf_of
from graphprune.pruning.signals.curvature import Curvature, kept_bytes, measure_by_segments, measure_curvature
from graphprune.pruning.signals.elimination import Consumer, eliminate
from graphprune.running.inputs import Batch
from graphprune.running.loss import predictions

Reading = tuple[list[LinearCall], NDArray[numpy.int64]]  # calls of one value, and the unit of each of its inputs


@final
@dataclass(frozen=True)
class Obs(Importance):
    """Optimal brain surgeon for units: the rise of the loss, in nats a token, when a unit goes and others replace it.

    Units are taken out one by one, cheapest first, and the linear calls that read them are solved anew in thought each
    time (ZipLM, arXiv 2302.04089), the loss being seen through the gradients of the calls' outputs (K-FAC). So a unit
    that others can stand in for costs little, however large it is. Goes with `compensation=least-squares`, which really
    solves the weights. Scores are in one currency for all groups: `global{normalize=none}` can compare them.

    For units that linear calls read: MLP channels, heads, value dimensions, residual width. Two matrices [k, k] of
    every value that calls read are held at once; where weights stay in their file, or much would be held, those of one
    layer. `tokens` of the calibration text are looked at, 0 for all: more were no better. `damping` is relative to each
    input's own energy; `rounds` limits how often costs are computed anew.
    """

    name: ClassVar[str] = "obs"
    needs_data: ClassVar[bool] = True
    damping: NotNegative = 0.01
    rounds: Count = 128
    tokens: Whole = 8192

    def score(self, scene: Scene) -> dict[str, Tensor]:
        graph, groups = scene.graph, scene.candidates
        if not scene.batches:
            raise UsageError("obs needs calibration text; give --data")
        calls = {call.weight: call for call in find_linear_calls(graph, shared=True)}
        solved = {call.weight for call in find_linear_calls(graph)}
        read = {group.id: readings(group, calls, solved) for group in groups}
        readers: dict[str, dict[LinearCall, None]] = {}
        for group in groups:
            if not read[group.id]:
                raise UsageError(f"obs can not score {group.id} ({group.kind}): no linear call reads it; use taylor")
            for name, (found, _) in read[group.id].items():
                readers.setdefault(name, {}).update(dict.fromkeys(found))
        together = {name: tuple(found) for name, found in readers.items()}
        batches = first_tokens(scene.batches, self.tokens)
        ends = segment_ends(graph, scene.groups, batches, scene.room, kept_bytes(graph, together))
        result, known = dict[str, Tensor](), dict[str, Curvature]()

        def eliminate_known(found: Mapping[str, Curvature]) -> None:
            known.update(found)
            for group in groups:
                if group.id not in result and read[group.id].keys() <= known.keys():
                    result[group.id] = self.cost(group, read[group.id], known, solved)
            left = {name for group in groups if group.id not in result for name in read[group.id]}
            for name in known.keys() - left:
                del known[name]

        if ends is None:
            eliminate_known(measure_curvature(graph, together, batches, scene.loss))
        else:
            shelf = shelf_of(graph, ends, batches, scene.room, scene.folder)
            measure_by_segments(graph, together, batches, ends, eliminate_known, scene.loss, shelf)
        return {group.id: result[group.id] for group in groups}

    def cost(
        self, group: Group, read: Mapping[str, Reading], known: Mapping[str, Curvature], solved: Container[str]
    ) -> Tensor:
        """What it costs to take out each unit of a group in its turn."""
        consumers = (
            Consumer(owner, seen.inputs.double().cpu(), seen.loss.double().cpu(), found[0].weight in solved)
            for name, (found, owner) in read.items()
            for seen in [known[name]]
        )
        return eliminate(group.units, consumers, self.damping, self.rounds).float()


def readings(group: Group, calls: dict[str, LinearCall], solved: set[str]) -> dict[str, Reading]:
    """The calls that read the group's units, those of one value together, each with the unit that an input is.

    What cannot be solved is apart from what can.
    """
    result: dict[str, Reading] = {}
    for slot in group.slots:
        call = calls.get(slot.name)
        if call is not None and slot.dim == (0 if call.transposed else 1):
            name = f"{call.x.name} {call.weight in solved}"
            result.setdefault(name, ([], slot.owner))[0].append(call)
    return result


def first_tokens(batches: Sequence[Batch], tokens: int) -> Sequence[Batch]:
    """The first batches that hold so many tokens to predict together, or all."""
    held = itertools.accumulate(map(predictions, batches))
    return batches[: 1 + sum(total < tokens for total in held)] if tokens else batches
