"""The learner `ast`, Adaptive Sparse Trainer: dense weights under a mask that follows them, and a pull on the masked.

Source: arXiv 2407.20584. The mask keeps the largest weights and is made anew every few steps; gradients reach masked
weights as if there were no mask; a pull towards zero that grows lets masks wander first and freezes them later.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from graphprune.bounds import NotNegative, Share, Whole
from graphprune.edits.side_branches import branch_names
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Edit
from graphprune.pruning.sparsity.held import multiplied
from graphprune.pruning.sparsity.places import Places, find_places
from graphprune.training.adapters import Trainee, whole
from graphprune.training.learning.learner import Kept, Learner, Learning
from graphprune.training.options import TrainOptions
from graphprune.training.patterns.boosting import branch_edits, group_means
from graphprune.training.patterns.masks import changed, kept_part, largest
from graphprune.training.patterns.pulls import Unit, pull, strength
from graphprune.weights.patterns import (
    Grouped,
    Pattern,
    Per,
    kept_by_zeros,
    kept_entries,
    only_patterns,
    parse_pattern,
)

_SETTLED = 0.1  # of the most that changed at once, in the last tenth of the masks


@final
@dataclass(frozen=True)
class Ast(Learner):
    """Train towards a `pattern` of zeros, a share (`50%`) of each matrix or `row`, or `2:4` along inputs.

    Weights may be dense, or have the pattern: then the first mask is what is kept of them, and the others begin at 0.

    The mask is made anew every `refresh` steps, 0 for never. Masked weights are pulled towards zero, with a strength
    that rises to `decay` over the first `ramp` of the steps: in mean gradients a step for a weight of the usual size,
    or with `unit=absolute` as the paper's lambda. With `slorb` each layer has a side branch with one sum for so many
    inputs. `scope` and `skip` are regular expressions of the weights that are meant and of those that are left dense.
    Source: arXiv 2407.20584.
    """

    name: ClassVar[str] = "ast"
    pattern: str = "2:4"
    refresh: Whole = 10
    decay: NotNegative = 3.0
    ramp: Share = 0.1
    unit: Unit = "gradient"
    slorb: Whole = 0
    per: Literal["auto", "matrix", "row"] = "auto"
    scope: str | None = None
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.wanted
        for text in (self.scope or "", *self.skip):
            try:
                re.compile(text)
            except re.error as error:
                raise UsageError(f"scope and skip of ast are regular expressions, not {text}: {error}") from error

    @property
    def wanted(self) -> Pattern:
        """The pattern, read. Raises UsageError."""
        per: Per = "matrix" if self.per == "auto" else self.per
        return parse_pattern(self.pattern, per)

    @property
    def reshapes(self) -> bool:
        return self.slorb > 0

    def edits(self, graph: Graph) -> tuple[Edit, ...]:
        return branch_edits(graph, self.places(graph).calls, self.slorb) if self.slorb else ()

    def places(self, graph: Graph) -> Places:
        """The weights that are to have the pattern. Raises UsageError where there are none, or some have another."""
        found, sparse = find_places(graph, self.wanted, self.scope, self.skip), kept_entries(graph.companions)
        kinds = {name: kind for kind, part in only_patterns(graph.companions).items() for name in part}
        for call in (each for each in found.calls if each.weight in sparse):
            kind = self.wanted.kind(0 if call.transposed else 1)
            if kinds[call.weight] != kind or not self.has_share(call.matrix(sparse[call.weight])):
                raise UsageError(
                    f"{call.weight} has another pattern of zeros than {self.pattern}, in which ast cannot go on; give "
                    "both the same pattern, or train with recover alone, which keeps the zeros"
                )
        return found

    def has_share(self, kept: Tensor) -> bool:
        """Whether no more is kept [outputs, inputs] than a share keeps, but for an entry of each row."""
        wanted = self.wanted
        return isinstance(wanted, Grouped) or float(kept.sum()) <= (1 - wanted.zeros) * kept.numel() + len(kept)

    def begin(self, graph: Graph, options: TrainOptions) -> Learning:
        places = self.places(graph)
        missing = branch_edits(graph, places.calls, self.slorb) if self.slorb else ()
        if missing:
            raise UsageError(
                f"{missing[0].of} has no side branch, which slorb={self.slorb} trains; make ast's edits first"
            )
        return AdaptiveSparse(graph, places, self, options)


@final
class AdaptiveSparse(Learning):
    """All weights, of which those with a pattern run with zeros where their mask of now has them."""

    def __init__(self, graph: Graph, places: Places, asked: Ast, options: TrainOptions) -> None:
        self.given, self.places, self.asked, self.options = graph, places, asked, options
        self.pattern = asked.wanted
        self.plain = whole(without_kept(graph, {call.weight for call in places.calls}))
        sparse = {n: kept for n, kept in kept_entries(graph.companions).items() if n in self.plain.trainable}
        given = {name: kept.to(self.plain.trainable[name].device) for name, kept in sparse.items()}
        found = largest(places.calls, self.plain.trainable, self.pattern)
        self.first = {name: given.get(name, kept) for name, kept in found.items()}
        self.kept = {name: kept.clone() for name, kept in self.first.items()}
        self.begin_branches()
        self.running = multiplied(self.plain.graph, self.kept, kept_part)
        self.strength = 0.0
        self.flips = list[tuple[int, float, float]]()

    @property
    def trainee(self) -> Trainee:
        return replace(
            self.plain, graph=self.running, merged=self.merged, companions=self.companions, forget=self.forget
        )

    def merged(self) -> dict[str, Tensor]:
        weights = self.plain.merged()
        return {name: w * self.kept[name] if name in self.kept else w for name, w in weights.items()}

    def companions(self) -> dict[str, dict[str, Tensor]]:
        """What is kept of each weight, by the kind of its pattern."""
        weights, found = self.merged(), dict[str, dict[str, Tensor]]()
        for call in self.places.calls:
            kind = self.pattern.kind(0 if call.transposed else 1)
            found.setdefault(kind, {})[call.weight] = kept_by_zeros(weights[call.weight])
        return found

    @torch.no_grad()
    def forget(self) -> None:
        """Go back to the dense weights and their first masks."""
        for name, parameter in self.given.parameters().items():
            self.plain.trainable[name].copy_(parameter)
        for name, kept in self.first.items():
            self.kept[name].copy_(kept)
        self.begin_branches()

    @torch.no_grad()
    def begin_branches(self) -> None:
        """Let side branches that add nothing yet make up for what is masked."""
        tensors = self.plain.trainable
        for call in self.places.calls if self.asked.slorb else ():
            write = tensors[branch_names(call.weight)[1]]
            if not bool(write.any()):
                write.copy_(group_means(call, tensors, self.kept[call.weight]))

    def pulls(self) -> Mapping[str, Callable[[Tensor, Tensor], Tensor | None]]:
        return {name: partial(self.pull, name) for name in self.kept}

    def pull(self, name: str, weight: Tensor, gradient: Tensor) -> Tensor | None:
        """What this step adds to the first moment of a weight; None for nothing."""
        if not self.strength:
            return None
        return pull(weight, gradient, self.kept[name], self.strength, self.asked.unit)

    def after_backward(self, step: int) -> None:
        place = self.options.first_step + step
        self.strength = strength(place, self.options.whole, self.asked.ramp, self.asked.decay)

    def after_step(self, done: int) -> None:
        place = self.options.first_step + done
        if not self.asked.refresh or place % self.asked.refresh:
            return
        new = largest(self.places.calls, self.plain.trainable, self.pattern)
        self.flips.append((place, changed(new, self.kept), changed(new, self.first)))
        for name, kept in new.items():
            self.kept[name].copy_(kept)

    def state(self) -> Kept:
        return Kept(self.kept, {"flips": [list(each) for each in self.flips]})

    def load(self, kept: Kept) -> None:
        for name, mask in kept.tensors.items():
            self.kept[name].copy_(mask)
        self.flips = [(int(step), now, since) for step, now, since in kept.plain.get("flips", ())]

    def told(self) -> str:
        zeros, size = sum(int((~kept).sum()) for kept in self.kept.values()), sum(k.numel() for k in self.kept.values())
        since = changed(self.kept, self.first)
        return f"{zeros:,} zeros among {size:,} weights, {since:.1%} of the mask is another than at first"

    def finish(self, graph: Graph) -> Graph:
        return graph.note(*self.places.notes, *unsettled(self.flips))


def without_kept(graph: Graph, names: Collection[str]) -> Graph:
    """The graph without the patterns of these weights, whose zeros may then become other numbers."""
    kinds = {kind: {n: t for n, t in part.items() if n not in names} for kind, part in graph.companions.items()}
    return replace(graph, companions={kind: part for kind, part in kinds.items() if part})


def unsettled(flips: list[tuple[int, float, float]]) -> tuple[str, ...]:
    """A note where masks moved until the end."""
    rates = [now for _, now, _ in flips]
    last = rates[-max(1, len(rates) // 10) :]
    if not rates or sum(last) / len(last) <= _SETTLED * max(rates):
        return ()
    return (
        f"ast: the masks still moved at the end, {sum(last) / len(last):.2%} of the entries at once where it was "
        f"{max(rates):.2%} at most; give it more tokens, or a higher decay",
    )
