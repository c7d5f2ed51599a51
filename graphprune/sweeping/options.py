"""Options: what a sweep is asked for."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from graphprune.amounts import read_target
from graphprune.bounds import Count, describe_bounds, wrong_fields
from graphprune.drivers import check_device
from graphprune.errors import UsageError
from graphprune.pipeline.options import DEVICE_HELP, CompileOptions, Held, Option, Seed, Window, option_name
from graphprune.runtimes.known import RuntimeName
from graphprune.suggestions import AUTO, check_choice

_STEP = Decimal(10)  # percent
_MOST = 50  # points
_TARGETS_HELP = (
    "Parameters of each result at most: from a share to another, 90%:30%, in tenths or by a step, 90%:60%:5%; or sizes "
    "separated by commas, 80%,60M. Sizes that OUT has already stay."
)
_BYTES_HELP = "How much of the held-out text every model is measured on."


@dataclass(frozen=True)
class SweepOptions:
    """One sweep: the model, the sizes, the method, the text. Checked when it is made.

    `method` to `held_out` are as in CompileOptions. `text_bytes` of the held-out text are what each model is measured
    on. `restart` forgets what earlier sweeps left in OUT. Raises UsageError.
    """

    model: str
    targets: Annotated[str | None, Option(_TARGETS_HELP, "SIZES")] = None
    method: Annotated[str, Option("A recipe that does not train, by name or file.", "NAME")] = "evolve"
    effort: Annotated[
        Literal["quick", "normal", "thorough"] | None,
        Option("How long a method that searches does so. [dim]default: quick for evolve[/dim]"),
    ] = None
    prune: Annotated[tuple[str, ...] | None, Option("What may shrink, as for compile.", "KINDS")] = None
    round_to: Annotated[Count | None, Option("Make widths multiples of this.", "N")] = None
    runtime: Annotated[
        RuntimeName | None, Option("Only what this runtime holds, as for compile; apply then takes its --backends.")
    ] = None
    settings: Annotated[tuple[str, ...], Option("Another field of the recipe.", "KEY=VALUE")] = ()
    data: Annotated[str, Option("Text to calibrate on, as for compile.", "TEXT")] = CompileOptions.data
    field: Annotated[str, Option("The field of the text in files with records and data sets.", "NAME")] = "text"
    held_out: Annotated[
        str | None, Option("Text that is only measured on; without it a part of --data is set aside.", "TEXT")
    ] = None
    text_bytes: Annotated[Count, Option(_BYTES_HELP)] = 1 << 15
    samples: Annotated[Held | None, Option("Calibration windows.")] = None
    length: Annotated[Window | None, Option("Tokens in each of them.")] = None
    seed: Annotated[Seed, Option("Seed of everything random.")] = 0
    device: Annotated[str, Option(DEVICE_HELP, "DEVICE")] = AUTO
    restart: Annotated[bool, Option("Forget what earlier sweeps left in OUT.")] = False
    out: Path | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.out is None:
            raise UsageError("where to? give -o OUT")
        if self.targets is None:
            raise UsageError("which sizes? give --targets, such as 90%:30%")
        for name, value, limits in wrong_fields(self):
            if isinstance(value, str):
                check_choice(option_name(name), value, limits.choices)
            raise UsageError(f"{option_of(name)} must be {describe_bounds(limits.bounds)}, not {str(value)[:40]}")
        check_device(self.device)
        _ = self.points

    @property
    def points(self) -> tuple[str, ...]:
        """The sizes as `--target-params` takes them, the first as first named. Raises UsageError."""
        assert self.targets is not None
        found = tuple(each for text in self.targets.split(",") if text.strip() for each in spread(text.strip()))
        if not found:
            raise UsageError("--targets names no size; write it as 90%:30% or 80%,60%")
        if len(found) > _MOST:
            raise UsageError(f"--targets names {len(found)} sizes; {_MOST} are the most, so take larger steps")
        known = [tuple(read_target(each)) for each in found]
        twice = next((each for each, one in zip(found, known, strict=True) if known.count(one) > 1), None)
        if twice is not None:
            raise UsageError(f"--targets has {twice[:40]} twice; name each once")
        return found

    def compilation(self, target: str) -> CompileOptions:
        """What `compile` would be asked for at one of the sizes."""
        searches = self.method == SweepOptions.method and self.effort is None
        return CompileOptions(
            self.model,
            target_params=target,
            out=self.out,
            method=self.method,
            effort="quick" if searches else self.effort,
            prune=self.prune,
            round_to=self.round_to,
            runtime=self.runtime,
            settings=self.settings,
            data=self.data,
            field=self.field,
            held_out=self.held_out,
            samples=self.samples,
            length=self.length,
            seed=self.seed,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
        )


def option_of(name: str) -> str:
    """The option of a field: `--bytes` for `text_bytes`."""
    return option_name(name.removeprefix("text_"))


def spread(text: str) -> tuple[str, ...]:
    """The sizes of a range in percent, both ends among them; another text is one size. Raises UsageError."""
    if ":" not in text:
        read_target(text)
        return ("".join(text.split()),)
    parts = [read_target(part) for part in text.split(":")]
    if len(parts) > 3 or any(part.unit != "%" for part in parts):
        raise UsageError(f"{text[:60]!r} is no range of sizes; write it as 90%:30% or 90%:60%:5%")
    first, last = parts[0].value, parts[1].value
    step = parts[2].value if len(parts) == 3 else _STEP
    sign = 1 if last >= first else -1
    count = int(abs(last - first) / step)
    if count >= _MOST:
        raise UsageError(f"{text[:60]!r} has {count + 1} sizes; {_MOST} are the most, so take larger steps")
    values = [first + sign * step * place for place in range(count + 1)]
    return tuple(f"{value.normalize():f}%" for value in (*values, *([last] if values[-1] != last else [])))
