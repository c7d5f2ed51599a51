"""First-order Taylor importance: how much the loss is expected to change when a unit's weights become zero."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from graphprune.errors import DataError, UsageError
from graphprune.groups import Group
from graphprune.ir import Graph
from graphprune.loss import Batch, Loss, batch_loss, rows, samples
from graphprune.plugins import Importance
from graphprune.scoring import Aggregate, parameter_slots, score_groups

Leaves = Mapping[str, Tensor]


@final
@dataclass(frozen=True)
class Taylor(Importance):
    """|w g| with the gradient g of the mean loss, over every parameter entry that a unit owns (arXiv 2305.11627).

    `aggregate=vector` sums |sum of w g| over the rows or columns that the unit owns, so that noise of either sign
    cancels, which measured better on small models (docs/methods/first-methods.md); `element` sums |w g| over the
    entries. `gradients=batch` takes g over all of the data; `sample` averages the score of each sample's own gradient,
    in which opposite signs of different samples do not cancel: slower, and better at small cuts.
    Every slot counts alike: matrices, biases, norms and embeddings. Grouped-query attention needs no special case: an
    entry counts for the unit that owns its index.
    """

    name: ClassVar[str] = "taylor"
    needs_data: ClassVar[bool] = True
    aggregate: Aggregate = "vector"
    gradients: Literal["batch", "sample"] = "sample"

    def __post_init__(self) -> None:
        if self.aggregate not in ("element", "vector") or self.gradients not in ("batch", "sample"):
            raise UsageError(
                f"taylor takes aggregate=element or vector and gradients=batch or sample, "
                f"not {self.aggregate} and {self.gradients}"
            )

    def score(
        self, graph: Graph, groups: Sequence[Group], batches: Sequence[Batch] = (), loss: Loss | None = None
    ) -> dict[str, Tensor]:
        if not batches:
            raise UsageError("taylor needs calibration text; give --data")
        names = dict.fromkeys(name for group in groups for name in parameter_slots(graph, group))
        model, leaves = with_leaves(graph, tuple(names))
        whole = self.gradients == "batch"
        data = (model, leaves, batches, loss)
        gradients = iter([mean_gradient(*data)]) if whole else sample_gradients(*data)
        totals = {group.id: torch.zeros(group.units, dtype=torch.float64) for group in groups}
        for found in gradients:
            for id, part in score_groups(model, groups, product(leaves, found), self.aggregate).items():
                totals[id] += part
        count = 1 if whole else sum(map(rows, batches))
        return {id: (total / count).float() for id, total in totals.items()}


def with_leaves(graph: Graph, names: Sequence[str]) -> tuple[Graph, Leaves]:
    """A fork whose parameters share storage with the graph's but take gradients of their own, for these names only."""
    own = {n: torch.nn.Parameter(p.detach(), requires_grad=n in names) for n, p in graph.parameters().items()}
    return graph.with_tensors(own), {name: own[name] for name in names}


def gradient(model: Graph, leaves: Leaves, batch: Batch, loss: Loss | None) -> Leaves:
    """The gradient of the batch's mean loss by each leaf. Raises DataError where the loss is not finite."""
    with torch.enable_grad():
        value = batch_loss(model, batch, loss)
        if not bool(torch.isfinite(value)):
            raise DataError(f"the loss on the calibration data is {value.item()}; check the weights and the data")
        found = torch.autograd.grad(value, tuple(leaves.values()), allow_unused=True)
    filled = (torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves.values(), strict=True))
    return dict(zip(leaves, filled, strict=True))


def mean_gradient(model: Graph, leaves: Leaves, batches: Sequence[Batch], loss: Loss | None) -> Leaves:
    """The gradient of the mean loss over all samples, summed in float32."""
    total = {name: torch.zeros_like(leaf, dtype=torch.float32) for name, leaf in leaves.items()}
    count = sum(map(rows, batches))
    for batch in batches:
        for name, part in gradient(model, leaves, batch, loss).items():
            total[name].add_(part, alpha=rows(batch) / count)
    return total


def sample_gradients(model: Graph, leaves: Leaves, batches: Sequence[Batch], loss: Loss | None) -> Iterator[Leaves]:
    """The gradient of each sample's loss, one after the other."""
    return (gradient(model, leaves, sample, loss) for batch in batches for sample in samples(batch))


def product(leaves: Leaves, gradients: Leaves) -> Callable[[str], Tensor]:
    """The entries w g of a parameter, in float32."""
    return lambda name: leaves[name].detach().float() * gradients[name].float()
