"""How to train: every choice of one stretch of training, checked when it is made."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from graphprune.bounds import Count, NotNegative, Positive, Share, Whole, describe_bounds, wrong_fields
from graphprune.errors import UsageError
from graphprune.training.execution.recomputed import Checkpoint
from graphprune.training.objective.routing import Routing
from graphprune.training.schedule import Shape, learning_rate

States = Literal["float32", "bf16", "int8"]
Precision = Literal["none", "bf16", "fp16"]
Moments = Literal["carry", "reset"]
Keep = Literal["best", "last"]


@dataclass(frozen=True)
class LoraOptions:
    """Adapters of rank `rank` on the linear layers whose names end in one of `targets` (empty: on all but the head).

    With a `block` the weights of linear layers lie on grids of 4 bits, with a scale and an offset for so many inputs,
    and stay there: adapters are merged into the offsets. The head then counts as the other layers do.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    block: Literal[0, 16, 32, 64, 128, 256] = 0

    def __post_init__(self) -> None:
        require(self.rank >= 1, f"the rank of LoRA is 1 or more, not {self.rank}")
        require(0 <= self.dropout < 1, f"the dropout of LoRA is from 0 to below 1, not {self.dropout}")


@dataclass(frozen=True)
class Steps:
    """What a step takes and how far it goes. `lr` is the peak, `min_lr` the share of it that decays end at."""

    rows: Count = 8
    accumulate: Count = 1
    lr: Positive = 2e-5
    min_lr: Share = 0.1
    schedule: Shape = "wsd"
    warmup: Share = 0.05
    decay: Share = 0.10


@dataclass(frozen=True)
class Updates:
    """What the optimizer does, and towards what.

    `distill` is the weight of the teacher's logits in the loss, 1 - `distill` that of the text. `states` is the type
    that the optimizer's moments are kept in. With `in_backward` each weight is updated as soon as its gradient is
    there, which is then let go. Of mixtures of experts, `balance` is the weight of the loss that is least where experts
    are given as many tokens, and `routing=auction` gives them as many while it trains.
    """

    moments: Moments = "carry"
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: NotNegative = 0.0
    clip: NotNegative = 1.0
    states: States = "float32"
    in_backward: bool = False
    distill: Share = 0.0
    temperature: Positive = 2.0
    teacher_device: str | None = None
    teacher_dtype: Precision = "none"
    balance: NotNegative = 0.0
    routing: Routing = "own"

    @property
    def betas(self) -> tuple[float, float]:
        return self.beta1, self.beta2


@dataclass(frozen=True)
class Conduct:
    """When a training is measured and saved, and what it is computed in and on.

    `eval_every` and `save_every` are in steps, 0 for never, None for what suits the length of the training.
    `divergence` is by how many nats per token the loss may lie above its best for `patience` evaluations. `shard`
    spreads every tensor over all processes (FSDP2) where there are several; without it each has all of them.
    `checkpoint` says what forward holds for backward: all (`off`), what products of matrices make (`selective`), what
    goes from layer to layer (`full`), or what memory allows (`auto`). `compile` compiles each kind of layer once.
    """

    keep: Keep = "best"
    eval_every: Whole | None = None
    eval_tokens: Whole | None = None
    divergence: Positive = 1.0
    patience: Annotated[int, Gt(0)] = 3
    save_every: Whole | None = None
    precision: Precision = "none"
    device: str | None = None
    checkpoint: Checkpoint = "auto"
    compile: bool = False
    shard: bool = False
    tensorboard: bool = False
    stage: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Conduct, Updates, Steps):
    """One stretch of training: `steps` steps of `rows` x `accumulate` x processes rows each. Raises UsageError.

    `first_step` and `total_steps` place the stretch in a learning-rate schedule that spans several (`total_steps` None:
    this is all of it); `first_row` says where in the data it begins. A stretch with a folder is saved at its end in any
    case.
    """

    steps: Whole
    first_step: Whole = 0
    total_steps: int | None = None
    first_row: Whole = 0
    eps: Positive = 1e-8
    lora: LoraOptions | None = None
    eval_every: Whole = 0
    eval_tokens: Whole = 32_768
    save_every: Whole = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, limits in wrong_fields(self):
            if limits.choices:
                raise UsageError(f"{name} is {', '.join(limits.choices)}, not {value!r}")
            must = "is a share" if len(limits.bounds) > 1 else "of training is"
            raise UsageError(f"{name} {must} {describe_bounds(limits.bounds)}, not {value}")
        if self.in_backward:
            self.check_steps_in_backward()
        if self.balance or self.routing != "own":
            self.check_routing()
        end = self.first_step + self.steps
        require(end <= self.whole, f"steps {self.first_step} to {end} do not fit in total_steps={self.whole}")

    def check_steps_in_backward(self) -> None:
        """Raise UsageError for what needs all gradients at a time."""
        require(self.accumulate == 1, "in_backward=true keeps no gradient to add to; set accumulate=1 and more rows")
        require(self.clip == 0, "in_backward=true never has all gradients, whose norm is clipped; set clip=0")
        require(self.precision != "fp16", "in_backward=true cannot undo what fp16 scales; take precision=bf16 or none")
        require(self.lora is None, "in_backward=true saves the gradients of all weights; leave it out with lora")

    def check_routing(self) -> None:
        """Raise UsageError for what cannot look at routers while it trains."""
        asked = "balance" if self.balance else f"routing={self.routing}"
        require(self.lora is None, f"{asked} is of the training of all weights; leave it out with lora")
        require(not self.compile, f"{asked} looks at values, which what is compiled may not; leave compile out")
        require(not self.shard, f"{asked} is not for tensors that are spread over processes; leave shard out")
        require(self.precision != "fp16", f"{asked} does not know what fp16 scales; take precision=bf16 or none")

    @property
    def whole(self) -> int:
        """The number of steps of the whole schedule."""
        return self.first_step + self.steps if self.total_steps is None else self.total_steps

    def rate(self, step: int) -> float:
        """The learning rate of a step of this stretch."""
        return learning_rate(
            self.first_step + step,
            self.whole,
            self.lr,
            shape=self.schedule,
            minimum=self.min_lr * self.lr,
            warmup=self.warmup,
            decay=self.decay,
        )

    def plain(self) -> dict[str, object]:
        """What a resumed run must have in common with the one that was killed, as plain data: not where it computes."""
        fields = {**dataclasses.asdict(self), "betas": self.betas}
        return {name: value for name, value in fields.items() if name not in _FREE}


_FREE = ("save_every", "tensorboard", "device", "teacher_device", "checkpoint", "beta1", "beta2")


def require(condition: bool, message: str) -> None:
    """Raise UsageError where an option is out of range."""
    if not condition:
        raise UsageError(message)
