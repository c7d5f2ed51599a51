"""Watching: the best loss so far, and whether training has come off the road."""

import math
from dataclasses import dataclass, replace

from graphprune.errors import TrainingError
from graphprune.train_options import TrainOptions

_WINDOW = 20  # steps whose training losses count as one evaluation where no text is held out


@dataclass(frozen=True)
class Watch:
    """What is known of the loss: the best of all evaluations and when, the last, how many in a row were far above it.

    Losses are in nats per token. `total` and `count` gather training losses until they make an evaluation.
    """

    start: float | None = None
    best: float | None = None
    best_step: int = 0
    last: float | None = None
    above: int = 0
    total: float = 0.0
    count: int = 0

    def evaluated(self, step: int, loss: float, limit: float) -> "Watch":
        """The watch after an evaluation; `limit` is how far above the best it may lie."""
        if self.best is None or loss < self.best:
            return replace(
                self, start=loss if self.start is None else self.start, best=loss, best_step=step, last=loss, above=0
            )
        return replace(self, last=loss, above=self.above + 1 if loss > self.best + limit else 0)

    def trained(self, step: int, loss: float, limit: float) -> "Watch":
        """The watch after a step, where training losses are all there is."""
        total, count = self.total + loss, self.count + 1
        if count < _WINDOW:
            return replace(self, total=total, count=count)
        return replace(self, total=0.0, count=0).evaluated(step, total / count, limit)


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
