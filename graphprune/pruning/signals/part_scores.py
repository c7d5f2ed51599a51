"""Part scores: what units count by their vectors and by their entries, on each part of the text by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from graphprune.errors import DataError
from graphprune.pruning.interfaces import Scene
from graphprune.pruning.signals.activation_room import segment_ends, shelf_of, small_batches
from graphprune.pruning.signals.gradients import backward, with_leaves
from graphprune.pruning.signals.segments import Listener, Segmented
from graphprune.pruning.signals.unit_sums import Key, Layout, lay_out, line_sums, unit_scores
from graphprune.running.inputs import Batch, rows, samples, split_parts
from graphprune.weights.stored import any_stored

Lines = dict[Key, Tensor]


class Item(NamedTuple):
    """What has one gradient: a batch, or a sample of one; the part that it is in, and its share of that."""

    part: int
    share: float
    batch: Batch


class PartScores(NamedTuple):
    """By id of a candidate float64 [parts, units]: magnitudes of sums over vectors, and sums of entries' magnitudes."""

    vector: Mapping[str, Tensor]
    element: Mapping[str, Tensor]


def part_scores(scene: Scene, count: int, order: Literal["first", "mixed"]) -> PartScores:
    """The change of the loss expected without each unit, on each of `count` parts of the text.

    With w g of sample n at an entry p_n, over a vector (a row or column that the unit owns) s_n = sum p_n: `first`
    counts |mean s_n| and sum |mean p_n|, `mixed` |mean (s_n - s_n²/2)| and sum |mean (p_n - p_n²/2)|, which is
    gᵀw - wᵀHw/2 with the empirical Fisher matrix for H, and its diagonal. Of each parameter one float32 sum is kept, of
    one part at a time. Raises DataError where gradients are not finite.
    """
    graph, layout = scene.graph, lay_out(scene.graph, scene.candidates)
    batches = small_batches(scene.batches) if any_stored(graph.tensors().values()) else scene.batches
    parts = split_parts(batches, count)
    items = list_items(parts, order == "mixed")
    sums = Sums(layout, order == "mixed", [({}, {}) for _ in parts])
    keys = layout.by_parameter()
    model, leaves = with_leaves(graph, keys)
    given = [item.batch for item in items]
    ends = segment_ends(graph, scene.groups, given, scene.room)

    def receive(place: int, name: str, gradient: Tensor) -> None:
        sums.add(items[place], name, keys[name], gradient.mul_(leaves[name].detach()))

    shelf = shelf_of(graph, ends, given, scene.room, scene.folder)
    split = None if ends is None else Segmented(model, leaves, ends, scene.loss, shelf=shelf)
    if split is not None and not split.shared():
        split.backward(given, Listener(leaf=receive, settled=lambda names: sums.close(keys, names)))
    else:
        for place, batch in enumerate(given):
            scene.progress(place, len(given))
            backward(model, leaves, batch, scene.loss, partial(receive, place))
            if place + 1 == len(items) or items[place + 1].part != items[place].part:
                sums.close(keys, list(sums.open))
    return gather(layout, sums.lines)


def list_items(parts: Sequence[Sequence[Batch]], by_sample: bool) -> list[Item]:
    """What has a gradient of its own, part by part."""
    found = []
    for place, part in enumerate(parts):
        whole = sum(map(rows, part))
        each = [s for batch in part for s in samples(batch)] if by_sample else part
        found += [Item(place, rows(batch) / whole, batch) for batch in each]
    return found


@final
@dataclass(eq=False)
class Sums:
    """Line sums of each part, and the entries of the part that each parameter is in now."""

    layout: Layout
    mixed: bool
    lines: Sequence[tuple[Lines, Lines]]
    open: dict[str, tuple[int, Tensor]] = field(default_factory=dict)

    def add(self, item: Item, name: str, keys: Sequence[Key], product: Tensor) -> None:
        """Take w g of a parameter, which is this one's to change; parts come one after the other."""
        if name in self.open and self.open[name][0] != item.part:
            self.settle(name, keys)
        vectors = self.lines[item.part][0]
        for key in keys:
            line = line_sums(self.layout, key, product).double()
            line = (line - line.square() / 2 if self.mixed else line) * item.share
            vectors[key] = vectors[key] + line if key in vectors else line
        entries = product.sub_(product.square() / 2) if self.mixed else product
        if name in self.open:
            self.open[name][1].add_(entries, alpha=item.share)
        else:
            self.open[name] = (item.part, entries.mul_(item.share))

    def settle(self, name: str, keys: Sequence[Key]) -> None:
        """The part of a parameter is done: its entries become lines."""
        part, entries = self.open.pop(name)
        magnitudes = entries.abs_()
        self.lines[part][1].update((key, line_sums(self.layout, key, magnitudes).double()) for key in keys)

    def close(self, keys: Mapping[str, Sequence[Key]], names: Sequence[str]) -> None:
        for name in names:
            if name in self.open:
                self.settle(name, keys[name])


def gather(layout: Layout, lines: Sequence[tuple[Lines, Lines]]) -> PartScores:
    """The scores of units from the line sums of every part. Raises DataError where some are not finite."""
    both: list[dict[str, Tensor]] = []
    for kind in (0, 1):
        scores = [unit_scores(layout, part[kind]) for part in lines]
        both.append({id: torch.stack([each[id] for each in scores]) for id in layout.units if scores})
    if not all(bool(torch.isfinite(score).all()) for found in both for score in found.values()):
        raise DataError("the gradients on the calibration data are not finite; check the weights, or use float32")
    return PartScores(*both)
