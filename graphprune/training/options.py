"""How to train: every choice of one stretch of training, checked when it is made."""

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from graphprune.errors import UsageError
from graphprune.training.schedule import Shape, learning_rate

Precision = Literal["none", "bf16", "fp16"]
Moments = Literal["carry", "reset"]
Keep = Literal["best", "last"]


@dataclass(frozen=True)
class LoraOptions:
    """Adapters of rank `rank` on the linear layers whose names end in one of `targets` (empty: on all but the head)."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.rank >= 1, f"the rank of LoRA is 1 or more, not {self.rank}")
        require(0 <= self.dropout < 1, f"the dropout of LoRA is from 0 to below 1, not {self.dropout}")


@dataclass(frozen=True)
class TrainOptions:
    """One stretch of training: `steps` steps of `rows` x `accumulate` x processes rows each. Raises UsageError.

    `lr` is the peak, `min_lr` the share of it that decays end at. `first_step` and `total_steps` place the stretch in a
    learning-rate schedule that spans several (`total_steps` None: this is all of it); `first_row` says where in the
    data it begins. `distill` is the weight of the teacher's logits in the loss, 1 - `distill` that of the text.
    `eval_every` and `save_every` are in steps, 0 for never; a stretch with a folder is saved at its end in any case.
    `shard` spreads every tensor over all processes (FSDP2) where there are several; without it each has all of them.
    `divergence` is by how many nats per token the loss may lie above its best for `patience` evaluations.
    """

    steps: int
    rows: int = 8
    accumulate: int = 1
    lr: float = 2e-5
    min_lr: float = 0.1
    schedule: Shape = "wsd"
    warmup: float = 0.05
    decay: float = 0.10
    first_step: int = 0
    total_steps: int | None = None
    first_row: int = 0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    moments: Moments = "carry"
    precision: Precision = "none"
    device: str | None = None
    compile: bool = False
    shard: bool = False
    distill: float = 0.0
    temperature: float = 2.0
    teacher_device: str | None = None
    teacher_dtype: Precision = "none"
    lora: LoraOptions | None = None
    keep: Keep = "best"
    eval_every: int = 0
    eval_tokens: int = 32_768
    divergence: float = 1.0
    patience: int = 3
    save_every: int = 0
    seed: int = 0
    stage: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("rows", 1), ("accumulate", 1), ("first_step", 0), ("first_row", 0)):
            value = getattr(self, name)
            require(value >= least, f"{name} of training is {least} or more, not {value}")
        for name in ("eval_every", "eval_tokens", "save_every", "weight_decay", "clip"):
            require(getattr(self, name) >= 0, f"{name} of training is 0 or more, not {getattr(self, name)}")
        for name in ("min_lr", "warmup", "decay", "distill"):
            require(0 <= getattr(self, name) <= 1, f"{name} is a share from 0 to 1, not {getattr(self, name)}")
        for name in ("lr", "temperature", "eps", "patience", "divergence"):
            require(getattr(self, name) > 0, f"{name} of training is above 0, not {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            require(value in choices, f"{name} is {', '.join(choices)}, not {value!r}")
        end = self.first_step + self.steps
        require(end <= self.whole, f"steps {self.first_step} to {end} do not fit in total_steps={self.whole}")

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
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name not in _FREE}


_FREE = ("save_every", "tensorboard", "device", "teacher_device")

_CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": get_args(Shape),
    "precision": get_args(Precision),
    "teacher_dtype": get_args(Precision),
    "moments": get_args(Moments),
    "keep": get_args(Keep),
}


def require(condition: bool, message: str) -> None:
    """Raise UsageError where an option is out of range."""
    if not condition:
        raise UsageError(message)
