"""Taylor importance: how much the loss is expected to change when a unit's weights become zero."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from graphprune.errors import DataError, UsageError
from graphprune.ir.graph import Graph
from graphprune.pruning.interfaces import Importance, Scene
from graphprune.pruning.signals.activation_room import segment_ends, shelf_of, small_batches
from graphprune.pruning.signals.gradients import backward, with_leaves
from graphprune.pruning.signals.line_taps import Tapped, attach_taps
from graphprune.pruning.signals.segments import Listener, Segmented
from graphprune.pruning.signals.unit_sums import (
    Aggregate,
    Key,
    Layout,
    Reduction,
    lay_out,
    line_sums,
    require_members,
    unit_scores,
)
from graphprune.running.inputs import Batch, rows, samples
from graphprune.running.loss import Comparing, Loss, RowMean
from graphprune.weights.stored import any_stored

Order = Literal["first", "second", "mixed"]


@final
@dataclass(frozen=True)
class Taylor(Importance):
    """The change of the loss expected without a unit; by order first |w g|, second w F w, mixed |w g - w F w / 2|.

    g is the gradient of the mean loss by an entry w, F the mean over the samples of its square (the diagonal of the
    empirical Fisher matrix, in place of the Hessian). The orders are param_first, param_second and
    param_mix of LLM-Pruner (arXiv 2305.11627).
    `aggregate=vector` sums over each row or column that the unit owns before the magnitude is taken, so that noise of
    either sign cancels, which measured better on small models (docs/methods/first-methods.md); `element` takes the
    magnitude of every entry. For `second`, which has no signs, they are the same.
    `gradients=batch` takes g over all of the data; `sample` averages the scores of each sample's own gradient, in
    which opposite signs of different samples do not cancel: better at small cuts. For `second` and `mixed` it says
    only that each sample has a gradient, which F is made of; g is then that of all of the data.
    `members` says how the weights that a unit is in, each of which counts as a whole, make its score: their sum, mean,
    max or product (its root, which ranks alike), or the first or last of them in graph order.

    Every slot counts alike: matrices, biases, norms and embeddings. Grouped-query attention needs no special case: an
    entry counts for the unit that owns its index. Gradients are summed up as backward finds them, one parameter at a
    time, in float32 or wider whatever the weights are in. `element` with `gradients=batch` or `order=mixed` keeps one
    float32 sum for every scored parameter, unless there is one batch only; nothing else keeps more than a number for
    each row and column. `vector` of first order needs no gradient of any weight where `line_taps` knows its use.
    """

    name: ClassVar[str] = "taylor"
    needs_data: ClassVar[bool] = True
    aggregate: Aggregate = "vector"
    gradients: Literal["batch", "sample"] = "sample"
    order: Order = "first"
    members: Reduction = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order != "first" and self.gradients == "batch":
            raise UsageError(
                f"taylor{{order={self.order}}} needs gradients of samples; leave gradients=batch out, "
                "or use order=first"
            )

    def score(self, scene: Scene) -> dict[str, Tensor]:
        return {id: score.float() for id, score in self.exact_scores(scene).items()}

    def exact_scores(self, scene: Scene) -> dict[str, Tensor]:
        """The scores as they were summed up: float64."""
        graph, batches, loss = scene.graph, scene.batches, scene.loss
        if not batches:
            raise UsageError("taylor needs calibration text; give --data")
        layout = lay_out(graph, scene.candidates)
        require_members(layout, self.members, self.name)
        # A loss that was given need not be the mean over its rows: unless it says so, it sees one sample at a time.
        summed = self.order == "first" and self.aggregate == "vector" and (loss is None or isinstance(loss, RowMean))
        tapped = attach_taps(graph, layout) if summed else None
        parts = small_batches(batches) if any_stored(graph.tensors().values()) else batches
        ends = segment_ends(graph, scene.groups, parts, scene.room)
        shelf = shelf_of(graph, ends, parts, scene.room, scene.folder)
        if tapped is not None:
            lines = tapped_lines(tapped, parts, self.gradients == "sample", ends, shelf, loss)
        else:
            lines = gradient_lines(self, graph, layout, parts, loss, ends, shelf)
        scores = unit_scores(layout, lines, self.members)
        if not all(bool(torch.isfinite(score).all()) for score in scores.values()):
            raise DataError("the gradients on the calibration data are not finite; check the weights, or use float32")
        return scores


def tapped_lines(
    tapped: Tapped,
    batches: Sequence[Batch],
    by_sample: bool,
    ends: Sequence[str] | None = None,
    shelf: Path | None = None,
    loss: Loss | None = None,
) -> dict[Key, Tensor]:
    """The line sums of w g, from taps: the mean of their magnitudes by sample, or of the sums as they are.

    With `ends`, names of nodes, all batches go through one segment of the graph after the other, and what they hand
    over waits in `shelf`, if that is a folder.
    """
    lines: dict[Key, Tensor] = {}
    count = sum(map(rows, batches))
    for size, group in groupby(batches, key=rows):
        model, gates = tapped.open(size)

        def receive(gate: str, found: Tensor, size: int = size) -> None:
            # The loss is the mean over the rows, so a row has its share of its own gradient.
            line = (found.abs() if by_sample else found).double().sum(0) * (size / count)
            key = tapped.gates[gate]
            lines[key] = lines[key] + line if key in lines else line

        if ends is not None:
            listener = Listener(leaf=lambda _, gate, found, receive=receive: receive(gate, found))  # type: ignore[misc]
            Segmented(model, gates, ends, loss, shelf=shelf).backward(list(group), listener)
            continue
        for batch in group:
            backward(model, gates, batch, loss, receive)
    return lines


def gradient_lines(
    taylor: Taylor,
    graph: Graph,
    layout: Layout,
    batches: Sequence[Batch],
    loss: Loss | None,
    ends: Sequence[str] | None = None,
    shelf: Path | None = None,
) -> dict[Key, Tensor]:
    """The line sums of what each entry counts for, from the gradients of the weights."""
    keys = layout.by_parameter()
    model, leaves = with_leaves(graph, keys)
    # Rows that are compared with each other are one sample together.
    alone = taylor.gradients == "sample" and not isinstance(loss, Comparing)
    parts = [s for b in batches for s in samples(b)] if alone else list(batches)
    count = sum(map(rows, batches))
    # Magnitudes are taken of what is summed over the data, or of each part where the parts are to be told apart.
    whole = len(parts) > 1 and (taylor.gradients == "batch" or taylor.order == "mixed")
    lines: dict[Key, Tensor] = {}
    sums: dict[str, Tensor] = {}

    def add_lines(name: str, entries: Tensor, share: float) -> None:
        values = entries.abs() if taylor.aggregate == "element" else entries
        for key in keys[name]:
            line = line_sums(layout, key, values).double() * share
            line = line if whole else line.abs()
            lines[key] = lines[key] + line if key in lines else line

    def receive(place: int, name: str, gradient: Tensor) -> None:
        share = rows(parts[place]) / count
        entries = loss_changes(taylor.order, gradient.mul_(leaves[name].detach()))
        if whole and taylor.aggregate == "element":
            sums[name] = sums[name].add_(entries, alpha=share) if name in sums else entries.mul_(share)
        else:
            add_lines(name, entries, share)

    def settle(names: Sequence[str]) -> None:
        for name in names:
            if name in sums:
                add_lines(name, sums.pop(name), 1.0)

    split = None if ends is None else Segmented(model, leaves, ends, loss, shelf=shelf)
    if split is not None and not split.shared():
        split.backward(parts, Listener(leaf=receive, settled=settle))
        return lines
    for place, part in enumerate(parts):
        backward(model, leaves, part, loss, partial(receive, place))
    settle(list(sums))
    return lines


def loss_changes(order: Order, product: Tensor) -> Tensor:
    """What each entry w of one sample counts for, with product w g; all are linear in the samples, as F is a mean."""
    if order == "first":
        return product
    return product.square() if order == "second" else product - product.square() / 2
