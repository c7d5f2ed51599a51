"""The learners of weights: all of them, or adapters on linear layers."""

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, final

from graphprune.ir.graph import Graph
from graphprune.training.adapters import Trainee, adapted, whole
from graphprune.training.grid_adapters import on_grids
from graphprune.training.learning.learner import Learner, Learning
from graphprune.training.options import LoraOptions, TrainOptions


@final
class Weights(Learning):
    """The learning of tensors, and nothing else."""

    def __init__(self, trainee: Trainee, adapters: bool = False, draws: bool = False) -> None:
        self.made = trainee
        self.runs_plain = self.keeps_moments = not adapters
        self.draws = draws

    @property
    def trainee(self) -> Trainee:
        return self.made


@final
@dataclass(frozen=True)
class Full(Learner):
    """Train every weight; from a teacher too where the training has one."""

    name: ClassVar[str] = "full"

    def begin(self, graph: Graph, options: TrainOptions) -> Learning:
        return Weights(whole(graph))


@final
@dataclass(frozen=True)
class Lora(Learner):
    """Train adapters of low rank on linear layers, which are merged in the end; options as `LoraOptions` has them."""

    name: ClassVar[str] = "lora"
    rank: int = LoraOptions.rank
    alpha: float = LoraOptions.alpha
    dropout: float = LoraOptions.dropout
    targets: tuple[str, ...] = LoraOptions.targets
    block: Literal[0, 16, 32, 64, 128, 256] = LoraOptions.block

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.adapters

    @property
    def adapters(self) -> LoraOptions:
        """The same as options of a training, checked. Raises UsageError."""
        return LoraOptions(**asdict(self))

    def begin(self, graph: Graph, options: TrainOptions) -> Learning:
        make = on_grids if self.block else adapted
        return Weights(make(graph, self.adapters, options.seed), adapters=True, draws=self.dropout > 0)


def learner_of(options: TrainOptions) -> Learner:
    """The learner that the options of a training stand for."""
    return Full() if options.lora is None else Lora(**asdict(options.lora))
