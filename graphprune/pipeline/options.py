"""Options: what a compilation is asked for."""

import functools
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from annotated_types import Ge, Le, Lt

from graphprune.amounts import parse_count, parse_speed, read_bytes, read_target
from graphprune.bounds import Count, describe_bounds, wrong_fields
from graphprune.drivers import check_device
from graphprune.errors import UsageError
from graphprune.ir.plan import Statistics
from graphprune.pruning.options import PRUNABLE, Floor
from graphprune.runtimes.known import RuntimeName
from graphprune.suggestions import AUTO, check_choice

WRITTEN = ("huggingface", "onnx")  # the backends, where none is named
Precision = Literal["auto", "float32", "bf16"]
Part = Literal["whole", "text"]
Tracker = Literal["wandb", "mlflow", "trackio", "tensorboard"]
Window = Annotated[int, Ge(2), Le(1 << 20)]
Held = Annotated[int, Ge(1), Le(1 << 20)]  # what is held in memory
Seed = Annotated[int, Ge(0), Lt(1 << 63)]
DEVICE_HELP = "Where to compute: auto (a GPU where torch finds one), cpu, cuda or cuda:1."
MEMORY_HELP = (
    "Memory to compute in: 12GB or 50%. A model too large for it stays in its file and is read weight by weight. "
    "default: what is free"
)
_PRUNE_HELP = (
    f"What may shrink: {', '.join(PRUNABLE)}; or auto, which cuts MLP channels and attention groups, and the residual "
    "width where these can not reach the size."
)
_PRECISION_HELP = (
    "What training multiplies in: auto is bf16 on a GPU that has it, else float32. Weights, scores and least squares "
    "are float32 or wider in any case."
)
_TRACKER_HELP = (
    "Also send each step of the training to this tracker, whose package and account are yours; tensorboard writes to "
    "runs beside OUT."
)
_PUSH_HELP = (
    "Also upload OUT to the Hugging Face hub, as the account that `hf auth login` knows; org/name@branch for a branch. "
    "What is there is replaced with --overwrite alone."
)


class Option(NamedTuple):
    """What the command line says of a field: its help, what stands for the value there, and the recipe's field that it
    is set over, by its dotted key."""

    help: str
    metavar: str | None = None
    sets: str | None = None


@dataclass(frozen=True)
class CompileOptions:
    """One compilation: the model, the size, the method, the data, the artefacts. Checked when it is made.

    One target says what the result may cost: `target_params` is `1B`, `600M`, `6e8` or `60%`; `target_size` bounds
    every model file that is written, `500MB` or `60%`, or one of them, `onnx-int4:500MB`; `target_kv_bytes` the cache a
    token takes, in float32; `target_speed` is a speed-up of decoding, `2x`, by what was measured on this machine.
    `method` names a recipe or its file; None in any of the fields of a recipe (`prune` to `lr`) means the recipe's own
    value, and `settings` sets others as `key=value`. `prune` names what may shrink, or is `("auto",)`. `vocabulary`
    says how many tokens stay, `16000`, `16k` or `50%`: beside a target, which the rest then meets, or in its place.
    `importance`, `allocation`, `compensation` and `backends` are specs such as `taylor{aggregate=vector}`. `floor` is
    the share that every group keeps at least. `runtime` says where the result is to run, which limits widths and adds
    its form to `backends`. `data` is a text, jsonl, json, csv or parquet file, a datasets id, or
    `stdlib`, and `field` the one of its records that holds the text; `held_out` is text of the same kinds that is only
    measured on, None for a part of `data`. `restart` discards what an unfinished run of the same OUT has kept. `device`
    is where the model is scored, trained and measured: `auto`, `cpu`, `cuda` or `cuda:1`. `precision` is what training
    multiplies in: `auto` is bf16 on a GPU that has it where the recipe says nothing else. `memory` is how much there is
    for the model, `12GB` or a share of what is free; a larger one stays in its file. `push_to_hub` is a repository of
    the hub, `org/name` or `org/name@branch`, that OUT is uploaded to when it is complete, unseen by others if
    `private`. `tracker` is where the steps of a training go as well. `part` is `text` where the text model of one that
    takes images or sounds too is wanted alone. Raises UsageError.
    """

    model: str
    target_params: Annotated[
        str | None, Option("Parameters of the result at most: 1B, 600M, 6e8 or a share such as 60%.", "SIZE")
    ] = None
    out: Path | None = None
    method: Annotated[str, Option("A recipe: graphprune list methods; or the path of one.", "NAME")] = "taylor"
    prune: Annotated[tuple[str, ...] | None, Option(_PRUNE_HELP, "KINDS", sets="prune.kinds")] = None
    importance: Annotated[
        str | None, Option("What makes a unit worth keeping: graphprune list.", "SPEC", sets="prune.importance")
    ] = None
    allocation: Annotated[
        str | None, Option("How the size is shared out among layers.", "SPEC", sets="prune.allocation")
    ] = None
    compensation: Annotated[
        str | None,
        Option("How the weights left make up for the others; none for not.", "SPEC", sets="prune.compensation"),
    ] = None
    steps: Annotated[
        Count | None, Option("Prune in so many rounds (of each stage), each scored anew.", sets="prune.steps")
    ] = None
    samples: Annotated[Held | None, Option("Windows of text to look at.", sets="calibration.samples")] = None
    length: Annotated[Window | None, Option("Tokens in each window.", sets="calibration.length")] = None
    round_to: Annotated[
        Count | Literal["auto"] | None,
        Option(
            "Make widths multiples of this, 1 for exact ones; auto measures which widths onnxruntime is fast with. "
            "[dim]default: 8, and 64 for vllm and sglang, where a width has many of them[/dim]",
            "N|auto",
            sets="prune.round_to",
        ),
    ] = None
    min_units: Annotated[Count | None, Option("Keep at least so many units a group.", sets="prune.min_units")] = None
    floor: Annotated[
        Floor | None, Option("Keep at least this share of every group: 0.2 is a fifth.", sets="prune.floor")
    ] = None
    uniform: Annotated[bool, Option("Equal widths: a stock checkpoint.", sets="prune.uniform")] = False
    runtime: Annotated[
        RuntimeName | None,
        Option("Only what this runtime holds without code of ours, in its form: inspect --for.", sets="prune.runtime"),
    ] = None
    scope: Annotated[
        str | None,
        Option(
            "Cut only where the module's name has this regular expression: vision|layers.[0-3].", "REGEX", "prune.scope"
        ),
    ] = None
    protect: Annotated[
        tuple[float, ...] | None,
        Option("Leave so many of the first and of the last layers whole: 4,2.", "FIRST,LAST", "prune.protect"),
    ] = None
    within: Annotated[
        tuple[str, ...] | None,
        Option("Keep at least a share of the units of a kind: attention=80%,mlp=50%.", "KIND=SHARE", "prune.within"),
    ] = None
    statistics: Annotated[
        Statistics | None, Option("What norms over a cut residual width average over.", sets="prune.statistics")
    ] = None
    effort: Annotated[
        Literal["quick", "normal", "thorough"] | None,
        Option("How long a method that searches does so, such as evolve."),
    ] = None
    pattern: Annotated[
        str | None,
        Option(
            "Set weights to zero too, behind the cut: 50% of each matrix, or 2:4 along inputs.",
            "SHARE|N:M",
            sets="sparsify.pattern",
        ),
    ] = None
    stages: Annotated[Count | None, Option("Prune and train in so many turns.", sets="stages")] = None
    train_tokens: Annotated[
        str | None, Option("Train on so many tokens in all: 2M.", "COUNT", sets="recover.tokens")
    ] = None
    lr: Annotated[float | None, Option("The peak learning rate.", sets="recover.lr")] = None
    settings: Annotated[tuple[str, ...], Option("Another field of the recipe: recover.clip=0.5.", "KEY=VALUE")] = ()
    data: Annotated[
        str,
        Option(
            "A text, jsonl, json, csv or parquet file, a datasets id, stdlib, Python's own library, or self, what the "
            "model writes: self{tokens=2M}.",
            "TEXT",
        ),
    ] = "stdlib"
    field: Annotated[str, Option("The field of the text in files with records and data sets.", "NAME")] = "text"
    held_out: Annotated[
        str | None, Option("Text that is only measured on; without it a part of --data is set aside.", "TEXT")
    ] = None
    target_size: Annotated[
        str | None,
        Option("Instead: bytes of every model file at most, 500MB or 60%; or of one, onnx-int4:500MB.", "BYTES"),
    ] = None
    target_kv_bytes: Annotated[
        str | None,
        Option("Instead: bytes of cache that a token of context takes at most, in float32: 32KiB or 50%.", "BYTES"),
    ] = None
    target_speed: Annotated[
        str | None,
        Option(
            "Instead: decode so many times as fast in onnxruntime on this machine, which is measured first: 2x.",
            "TIMES",
        ),
    ] = None
    vocabulary: Annotated[
        str | None,
        Option(
            "Keep so many tokens, which --data uses most: 16000, 16k or 50%. Alone, or the rest meets the target.",
            "TOKENS",
        ),
    ] = None
    seed: Annotated[Seed, Option("Seed of everything random.")] = 0
    backends: tuple[str, ...] = WRITTEN
    overwrite: bool = False
    dry_run: Annotated[bool, Option("Show widths and sizes only; a config.json is enough.")] = False
    restart: Annotated[bool, Option("Discard what an unfinished run has kept beside OUT, and begin again.")] = False
    trust_remote_code: bool = False
    part: Annotated[
        Part,
        Option("What of a model of images or sounds and text: the whole, which is refused today, or its text model."),
    ] = "whole"
    device: Annotated[str, Option(DEVICE_HELP, "DEVICE")] = AUTO
    precision: Annotated[Precision, Option(_PRECISION_HELP)] = AUTO
    memory: Annotated[str | None, Option(MEMORY_HELP, "BYTES")] = None
    push_to_hub: Annotated[str | None, Option(_PUSH_HELP, "ORG/NAME")] = None
    tracker: Annotated[Tracker | None, Option(_TRACKER_HELP)] = None
    private: Annotated[bool, Option("With --push-to-hub: a repository that others cannot see.")] = False

    def __post_init__(self) -> None:
        if self.out is None and not self.dry_run:
            raise UsageError("where to? give -o OUT, or --dry-run to see the plan only")
        if len(self.targets) > 1:
            raise self.how_small(f", not {' and '.join(option for option, _ in self.targets)}")
        if self.prune or (self.method == CompileOptions.method and not self.settings):
            self.require_target(True)  # of other methods the recipe says whether they cut units
        for name, value, limits in wrong_fields(self):
            if isinstance(value, str):
                check_choice(option_name(name), value, limits.choices)
            must = "is the share that every group keeps," if name == "floor" else "must be"
            raise UsageError(f"{option_name(name)} {must} {describe_bounds(limits.bounds)}, not {str(value)[:40]}")
        for kind in self.prune or ():
            check_choice("--prune", kind.removesuffix("?"), (AUTO, *PRUNABLE))
        if AUTO in (self.prune or ()) and len(self.prune or ()) > 1:
            raise UsageError("--prune auto stands alone; name the kinds instead: mlp,attention")
        self.check_amounts()
        check_device(self.device)

    def check_amounts(self) -> None:
        """Read every target and count as far as that goes without the model. Raises UsageError."""
        for option, value in self.targets:
            _READERS[option](value.rpartition(":")[2] if option == "--target-size" else value)
        counts: tuple[tuple[str, str | None, Callable[[str], object], str], ...] = (
            ("--vocabulary", self.vocabulary, read_target, "16000, 16k or 50%"),
            ("--train-tokens", self.train_tokens, parse_count, "2M, 500k, 1e6 or 1000000"),
        )
        if self.memory is not None:
            read_bytes(self.memory)
        for option, count, read, example in counts:
            try:
                _ = None if count is None else read(count)
            except (UsageError, ValueError) as error:
                raise UsageError(f"{option} {str(count)[:40]}: write the number of tokens as {example}") from error

    @property
    def targets(self) -> tuple[tuple[str, str], ...]:
        """The options of targets that are given, with their values."""
        given = ((option, getattr(self, option.removeprefix("--").replace("-", "_"))) for option in _TARGETS)
        return tuple((option, value) for option, value in given if value is not None)

    def require_target(self, cuts_units: bool) -> None:
        """Raise UsageError where the method cuts units and there is no size to cut to, or the other way round."""
        if self.targets and self.targets[0][1] != _WHOLE and not cuts_units and not self.vocabulary:
            option, value = self.targets[0]
            raise UsageError(
                f"{option} {value}: the method {self.method} cuts no units, so there is no size to reach; leave "
                f"{option} out, or say what to cut too: --prune auto"
            )
        if self.targets or self.only_vocabulary or not cuts_units:
            return
        tokens = "; or --vocabulary N for so many tokens" if "vocabulary" in (self.prune or ()) else ""
        tokens = "; or --method sparse, which sets weights to zero alone" if self.pattern else tokens
        raise self.how_small("; --vocabulary alone cuts nothing but tokens" if self.vocabulary else tokens)

    def how_small(self, more: str) -> UsageError:
        return UsageError(f"how small? give one of {', '.join(_TARGETS)}{more}")

    @property
    def only_vocabulary(self) -> bool:
        """Whether a number of tokens is all that is asked for."""
        return self.vocabulary is not None and not self.targets and self.prune in (None, ("vocabulary",))

    @property
    def target(self) -> tuple[str, str]:
        """The option of the target, and its value; all of the model where nothing is to be cut."""
        if self.only_vocabulary:
            return "--vocabulary", str(self.vocabulary)
        return self.targets[0] if self.targets else ("--target-params", _WHOLE)


_READERS: Mapping[str, Callable[[str], object]] = {
    "--target-params": read_target,
    "--target-size": read_bytes,
    "--target-kv-bytes": read_bytes,
    "--target-speed": parse_speed,
}
_TARGETS = tuple(_READERS)
_SPELLED = {"settings": "--set", "runtime": "--for"}
_WHOLE = "100%"  # the size where nothing is to be cut, as a report has it


def option_name(field: str) -> str:
    """The option of the command line that a field has: `--round-to` for `round_to`."""
    return _SPELLED.get(field) or f"--{field.replace('_', '-')}"


@functools.cache
def typed_fields(options: type) -> Mapping[str, Any]:
    """The types of the fields of a class of options, without what is said of them."""
    return typing.get_type_hints(options)


@functools.cache
def explained_options(options: type | None = None) -> Mapping[str, Option]:
    """What the command line says of the fields of a class of options, CompileOptions where none is given."""
    hints = typing.get_type_hints(options or CompileOptions, include_extras=True)
    found = {name: [each for each in get_args(hint) if isinstance(each, Option)] for name, hint in hints.items()}
    return {name: options[0] for name, options in found.items() if options}


@dataclass(frozen=True)
class ApplyOptions:
    """One replay of a saved plan: the model that it was made for, the plan's file, and where the result goes."""

    model: str
    plan: Path
    out: Path
    backends: tuple[str, ...] = WRITTEN
    overwrite: bool = False
    trust_remote_code: bool = False
    part: Part = "whole"
    memory: str | None = None

    def __post_init__(self) -> None:
        if self.memory is not None:
            read_bytes(self.memory)


def work_folder(out: Path) -> Path:
    """Where a run that writes OUT keeps its state: a hidden folder beside it."""
    return out.absolute().with_name(f".{out.name}.graphprune-run")
