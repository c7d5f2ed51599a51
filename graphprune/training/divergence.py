"""Watching: the best loss so far, and whether training has come off the road."""

import math
from dataclasses import dataclass, replace

from graphprune.errors import TrainingError
from graphprune.training.options import TrainOptions

_WINDOW = 20  # steps whose training losses are looked at together, and are one evaluation where no text is held out
_CHANCE = 0.25  # of `divergence`: so far above the lowest, a window is higher by more than the luck of its batches


@dataclass(frozen=True)
class Watch:
    """What is known of the loss: the best of all evaluations and when, the last, how many in a row were far above it.

    Losses are in nats per token. `total` and `count` gather the cross entropies of training until they make a window;
    `window` is the mean of the last whole one, `lowest` the lowest of those before it and of the first step.
    """

    start: float | None = None
    best: float | None = None
    best_step: int = 0
    last: float | None = None
    above: int = 0
    total: float = 0.0
    count: int = 0
    window: float | None = None
    lowest: float | None = None

    def evaluated(self, step: int, loss: float, limit: float) -> "Watch":
        """The watch after an evaluation; `limit` is how far above the best it may lie."""
        if self.best is None or loss < self.best:
            return replace(
                self, start=loss if self.start is None else self.start, best=loss, best_step=step, last=loss, above=0
            )
        return replace(self, last=loss, above=self.above + 1 if loss > self.best + limit else 0)

    def begun_again(self, step: int) -> "Watch":
        """The watch of a model that was cut after a step: what was best before is not this model."""
        return Watch(start=self.start, best_step=step, last=self.last)

    def trained(self, entropy: float) -> "Watch":
        """The watch after a step of this mean cross entropy with the text."""
        before = [value for value in (self.lowest, self.window) if value is not None]
        lowest = min(before, default=entropy)
        total, count = self.total + entropy, self.count + 1
        if count < _WINDOW:
            return replace(self, total=total, count=count, window=None, lowest=lowest)
        return replace(self, total=0.0, count=0, window=total / count, lowest=lowest)


def require_sense(watch: Watch, step: int, guess: float, options: TrainOptions) -> None:
    """Raise TrainingError where a window of steps is worse than a uniform `guess`, in nats, and worse than before.

    A cut may leave a model that is worse than a guess; it may go on as long as it does not get worse still.
    """
    mean, lowest = watch.window, watch.lowest
    if mean is None or lowest is None or mean <= guess or mean <= lowest + _CHANCE * options.divergence:
        return
    raise TrainingError(
        f"training diverged: the loss is {mean:.3f} nats over {_WINDOW} steps up to step {step}, worse than a uniform "
        f"guess ({guess:.3f}); it was {lowest:.3f}; lower lr (now {options.lr:g}) or raise warmup "
        f"(now {options.warmup:g})"
    )


def require_progress(watch: Watch, step: int, options: TrainOptions) -> None:
    """Raise TrainingError where the last evaluations all lay far above the best."""
    if watch.above < options.patience or watch.best is None or watch.last is None:
        return
    raise TrainingError(
        f"training diverged: the loss is {watch.last:.3f} nats at step {step}, it was {watch.best:.3f} at step "
        f"{watch.best_step}; lower lr (now {options.lr:g}) or raise warmup (now {options.warmup:g})"
    )


def require_finite(loss: float, norm: float, step: int, options: TrainOptions) -> None:
    """Raise TrainingError where a loss or a gradient is no number; with fp16 a gradient may overflow now and then."""
    if math.isfinite(loss) and (math.isfinite(norm) or options.precision == "fp16"):
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    narrow = ", or use bf16 or none in place of fp16" if options.precision == "fp16" else ""
    raise TrainingError(
        f"training diverged: {what} at step {step}; "
        f"lower lr (now {options.lr:g}) or clip (now {options.clip:g}){narrow}"
    )
