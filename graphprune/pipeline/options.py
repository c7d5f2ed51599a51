"""Options: what a compilation is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from graphprune.errors import UsageError
from graphprune.ir.plan import Statistics
from graphprune.suggestions import AUTO, check_choice

PRUNABLE = ("mlp", "attention", "residual", "head_dim", "query", "blocks", "experts", "vocabulary", "other")
Precision = Literal["auto", "float32", "bf16"]


@dataclass(frozen=True)
class CompileOptions:
    """One compilation: the model, the size, the method, the data, the artefacts. Checked when it is made.

    One target says what the result may cost: `target_params` is `1B`, `600M`, `6e8` or `60%`; `target_size` bounds
    every model file that is written, `500MB` or `60%`, or one of them, `onnx-int4:500MB`; `target_kv_bytes` the cache a
    token takes, in float32; `target_speed` is a speed-up of decoding, `2x`, by what was measured on this machine.
    `method` names a recipe or its file; None in any of the fields of a
    recipe (`prune` to `lr`) means the recipe's own value, and `settings` sets others as `key=value`. `prune` names what
    may shrink, or is `("auto",)`. `vocabulary` says how many tokens stay, `16000`, `16k` or `50%`: beside a target,
    which the rest then meets, or in its place. `importance`, `allocation`, `compensation` and `backends` are specs such
    as `taylor{aggregate=vector}`. `floor` is the share that every group keeps at least. `data` is a text, jsonl or
    parquet file, a datasets id, or `stdlib`; `held_out` is text of the same kinds that is only measured on, None for a
    part of `data`. `restart` discards what an unfinished run of the same OUT has kept. `device` is where the model is
    scored, trained and measured: `auto`, `cpu`, `cuda` or `cuda:1`. `precision` is what training multiplies in: `auto`
    is bf16 on a GPU that has it where the recipe says nothing else. Raises UsageError.
    """

    model: str
    target_params: str | None = None
    out: Path | None = None
    method: str = "taylor"
    prune: tuple[str, ...] | None = None
    importance: str | None = None
    allocation: str | None = None
    compensation: str | None = None
    steps: int | None = None
    samples: int | None = None
    length: int | None = None
    round_to: int | Literal["auto"] | None = None
    min_units: int | None = None
    floor: float | None = None
    uniform: bool = False
    statistics: Statistics | None = None
    stages: int | None = None
    train_tokens: str | None = None
    lr: float | None = None
    settings: tuple[str, ...] = ()
    data: str = "stdlib"
    held_out: str | None = None
    target_size: str | None = None
    target_kv_bytes: str | None = None
    target_speed: str | None = None
    vocabulary: str | None = None
    seed: int = 0
    backends: tuple[str, ...] = ("huggingface", "onnx")
    overwrite: bool = False
    dry_run: bool = False
    restart: bool = False
    trust_remote_code: bool = False
    device: str = AUTO
    precision: Precision = AUTO

    def __post_init__(self) -> None:
        if self.out is None and not self.dry_run:
            raise UsageError("where to? give -o OUT, or --dry-run to see the plan only")
        if len(self.targets) > 1 or not (self.targets or self.only_vocabulary):
            several = f", not {' and '.join(option for option, _ in self.targets)}" if self.targets else ""
            tokens = "; or --vocabulary N for so many tokens" if "vocabulary" in (self.prune or ()) else ""
            alone = "; --vocabulary alone cuts nothing but tokens" if self.vocabulary else tokens
            raise UsageError(f"how small? give one of {', '.join(_TARGETS)}{several or alone}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, int) and value < least:
                raise UsageError(f"--{name.replace('_', '-')} must be {least} or more, not {value}")
        if self.floor is not None and not 0 <= self.floor < 1:
            raise UsageError(f"--floor is the share that every group keeps, from 0 to below 1, not {self.floor}")
        check_choice("--precision", self.precision, get_args(Precision))
        if self.statistics is not None:
            check_choice("--statistics", self.statistics, get_args(Statistics))
        for kind in self.prune or ():
            check_choice("--prune", kind, (AUTO, *PRUNABLE))
        if AUTO in (self.prune or ()) and len(self.prune or ()) > 1:
            raise UsageError("--prune auto stands alone; name the kinds instead: mlp,attention")

    @property
    def targets(self) -> tuple[tuple[str, str], ...]:
        """The options of targets that are given, with their values."""
        given = ((option, getattr(self, option.removeprefix("--").replace("-", "_"))) for option in _TARGETS)
        return tuple((option, value) for option, value in given if value is not None)

    @property
    def only_vocabulary(self) -> bool:
        """Whether a number of tokens is all that is asked for."""
        return self.vocabulary is not None and not self.targets and self.prune in (None, ("vocabulary",))

    @property
    def target(self) -> tuple[str, str]:
        """The option of the target, and its value."""
        return ("--vocabulary", str(self.vocabulary)) if self.only_vocabulary else self.targets[0]


_TARGETS = ("--target-params", "--target-size", "--target-kv-bytes", "--target-speed")
_LEAST = {"steps": 1, "samples": 1, "length": 2, "round_to": 1, "min_units": 1, "stages": 1}


@dataclass(frozen=True)
class ApplyOptions:
    """One replay of a saved plan: the model that it was made for, the plan's file, and where the result goes."""

    model: str
    plan: Path
    out: Path
    backends: tuple[str, ...] = ("huggingface", "onnx")
    overwrite: bool = False
    trust_remote_code: bool = False


def work_folder(out: Path) -> Path:
    """Where a run that writes OUT keeps its state: a hidden folder beside it."""
    return out.absolute().with_name(f".{out.name}.graphprune-run")
