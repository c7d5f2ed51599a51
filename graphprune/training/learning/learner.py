"""The plug-in kind `training`: a learner says what a training trains, what it adds to the loss and does between steps.

The loop calls a `Learning` at fixed places of every step; each hook does nothing unless it is written. What a hook
draws at random it draws from the seed and the place in the run, and what it remembers it hands over as `state`, so that
a training that was killed goes on to the same bits.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from graphprune.bounds import require_limits
from graphprune.data.stream.lead import NO_LEAD, Lead
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Edit, Plan
from graphprune.training.adapters import Trainee
from graphprune.training.objective.sums import Blend
from graphprune.training.options import TrainOptions

# Of a tensor and its gradient, when it is stepped, what is added to its first moment; None for nothing.
Pull = Callable[[Tensor, Tensor], Tensor | None]


@dataclass(frozen=True)
class Rate:
    """How a tensor is stepped that is no weight: at `factor` times the weights' rate, up the slope where it `ascends`.

    It is not decayed, and its gradient is not clipped with those of the weights.
    """

    factor: float = 1.0
    ascends: bool = False


@dataclass(frozen=True, eq=False)
class Kept:
    """What a learning remembers beside the tensors that are trained: tensors by name, and plain data."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    plain: Mapping[str, Any] = field(default_factory=dict)


class Learning(ABC):
    """What a learner does in one training, of one graph. Steps are numbered from 0, those done from 1.

    `runs_plain` says that the trainee's graph has the operators of the source alone, so that its head can be split off
    and it can be compiled; `recomputes` that backward may compute values again; `keeps_moments` that the optimizer's
    moments are those of the graph's own parameters; `draws` that forward draws random numbers.
    """

    runs_plain: bool = True
    recomputes: bool = True
    keeps_moments: bool = True
    draws: bool = False
    reads: tuple[str, ...] = ()  # the outputs of the trainee's graph that `terms` looks at, beside logits
    lead: Lead = NO_LEAD  # what stands before every row, in training and where text is measured

    @property
    @abstractmethod
    def trainee(self) -> Trainee:
        """What is trained: the graph that runs, and the tensors that change, whose names are those of the state."""

    def blend(self, options: TrainOptions) -> Blend:
        """How much a teacher weighs against the text; without a teacher it is not asked for."""
        return Blend(options.distill, options.temperature)

    def rates(self) -> Mapping[str, Rate]:
        """The trained tensors that are no weights, and how they are stepped."""
        return {}

    def pulls(self) -> Mapping[str, Pull]:
        """What is added to the first moment of trained tensors where a step uses it, without staying in it."""
        return {}

    def before_forward(self, step: int, part: int) -> None:  # noqa: B027 - a hook may do nothing
        """Make ready for the forward of a part of a step, such as by drawing masks."""

    def terms(self, outputs: Mapping[str, Tensor], labels: Tensor) -> Mapping[str, Tensor]:
        """What is added to the loss of some rows, by name: sums over their tokens. Called where `reads` is not empty.

        `outputs` are those of `reads` and the logits [rows, length, words].
        """
        return {}

    def penalties(self, step: int) -> Mapping[str, Tensor]:
        """What is added to the loss of a step, by name, whatever its rows are; in nats a token."""
        return {}

    def after_backward(self, step: int) -> None:  # noqa: B027 - a hook may do nothing
        """Look at the gradients of a step, which are whole and not yet clipped."""

    def remarks(self) -> Mapping[str, float]:
        """What is written beside the losses of the step that has just been computed, by name."""
        return {}

    def after_step(self, done: int) -> Plan | None:
        """What is cut after so many steps, at once, with weights and moments; None for nothing."""
        return None

    def resumed(self, graph: Graph, plan: Plan) -> "Learning":
        """The learning that goes on with a graph that the plan has made of this one's. Raises where nothing is cut."""
        raise NotImplementedError("a learner whose `after_step` cuts says how it goes on")

    def measured(self, graph: Graph) -> Graph:
        """What held-out text is measured on, where that is not the trainee's graph as it is."""
        return graph

    def state(self) -> Kept:
        """What is saved beside the trained tensors."""
        return Kept()

    def load(self, kept: Kept) -> None:  # noqa: B027 - a hook may do nothing
        """Go on from a state; where weights of an earlier step are taken back, with its tensors and today's data."""

    def told(self) -> str:
        """What the log says of what was learned, in a few words; nothing where there is nothing to say."""
        return ""

    def finish(self, graph: Graph) -> Graph:
        """The result, of the graph with its weights as they are now."""
        return graph


@dataclass(frozen=True)
class Learner(ABC):
    """A way to train. A subclass is a final frozen dataclass whose fields are its options; plug-in kind `training`."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        require_limits(self, self.name)

    @property
    def reshapes(self) -> bool:
        """Whether it adds operators, so that no class of the source's own computes the result."""
        return False

    @property
    def adds_tokens(self) -> int:
        """The tokens that it appends to the vocabulary, which then stand before every text."""
        return 0

    def edits(self, graph: Graph) -> tuple[Edit, ...]:
        """The edits of a graph that come before its training; weights are not looked at."""
        return ()

    @abstractmethod
    def begin(self, graph: Graph, options: TrainOptions) -> Learning:
        """The learning of a graph, which lies where it is trained and stays as it is. Raises UsageError."""
