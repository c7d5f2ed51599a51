"""Options: what a comparison is asked for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from graphprune.amounts import parse_count, read_target
from graphprune.bounds import Count, describe_bounds, wrong_fields
from graphprune.context import check_windows
from graphprune.data.library import LIBRARY
from graphprune.data.splits import split_name
from graphprune.data.stream.domains import each_domain, held_out_of, split_domains, train_of
from graphprune.drivers import check_device
from graphprune.errors import UsageError
from graphprune.pipeline.options import DEVICE_HELP, Held, Option, Precision, Window, option_name
from graphprune.suggestions import AUTO, check_choice

NO_TRAINING, WINDOW = "0", 256
Tokens = Annotated[int, Ge(2)]
Seeds = Annotated[int, Ge(1), Le(1000)]
_METHODS_HELP = (
    "What stands in the rows, separated by commas: recipes by name or file, or parts as "
    "NAME=importance{...}+allocation+compensation; +KEY=VALUE sets a field of a recipe."
)
_SEARCH_HELP = (
    "Text for choices that calibration text is not for, as of the best weights of a recovery. "
    "[dim]default: the last tenth of --data[/dim]"
)


@dataclass(frozen=True)
class CompareOptions:
    """One comparison: every method at every target, with every number of tokens to recover on, for each of the seeds.

    `data` is calibrated and trained on, `search` is what recovery keeps its best weights by, and `held_out` is only
    reported on. `samples` windows of `length` tokens are what every method looks at. `window` to `text_tokens` say how
    the held-out text is cut, see `stream_perplexity`. `settings` change every recipe. Raises UsageError.
    """

    model: str
    methods: Annotated[tuple[str, ...], Option(_METHODS_HELP, "METHODS")] = ()
    targets: Annotated[
        tuple[str, ...], Option("Parameters of each result at most, separated by commas: 80%,60%,40%.", "SIZES")
    ] = ()
    train_tokens: Annotated[
        tuple[str, ...], Option("Tokens to recover on, separated by commas; 0 is the cut alone: 0,1M.", "COUNTS")
    ] = (NO_TRAINING,)
    seeds: Annotated[Seeds, Option("Repeat each with seeds 0, 1, ... so many.")] = 1
    settings: Annotated[tuple[str, ...], Option("A field of every recipe: recover.lr=1e-3.", "KEY=VALUE")] = ()
    data: Annotated[str | None, Option("Text to calibrate and to train on, as for compile.", "TEXT")] = None
    held_out: Annotated[str | None, Option("Text to report on; no method sees it.", "TEXT")] = None
    search: Annotated[str | None, Option(_SEARCH_HELP, "TEXT")] = None
    field: Annotated[str, Option("The field of the text in files with records and data sets.", "NAME")] = "text"
    samples: Annotated[Held, Option("Calibration windows, the same for all methods at one seed.")] = 512
    length: Annotated[Window, Option("Tokens in each of them.")] = 64
    window: Annotated[
        Window | None, Option("Tokens a window of the held-out text. [dim]default: 256, or the context[/dim]")
    ] = None
    stride: Annotated[
        Count | None,
        Option(
            "Tokens between windows; with --no-bos the whole window, so that the first token of each is not predicted. "
            "[dim]default: window - 1[/dim]"
        ),
    ] = None
    bos: Annotated[bool, Option("Start each window with the tokenizer's first token.")] = True
    text_bytes: Annotated[Count | None, Option("Read so much of the held-out text only.")] = None
    text_tokens: Annotated[Tokens | None, Option("Read so many tokens of it only.")] = None
    tasks: Annotated[tuple[str, ...], Option("Tasks to score as well, as for eval: arc_easy_local.", "TASKS")] = ()
    eval_data: Annotated[Path | None, Option("The folder of the local tasks' .jsonl files.", "FOLDER")] = None
    task_limit: Annotated[Count | None, Option("Examples of each task at most.")] = None
    jobs: Annotated[Count, Option("Cells at once, which share the processors.")] = 1
    device: Annotated[str, Option(DEVICE_HELP, "DEVICE")] = AUTO
    precision: Annotated[Precision, Option("What training multiplies in, as for compile.")] = AUTO
    keep: Annotated[bool, Option("Keep every model as a checkpoint in OUT/models.")] = False
    dry_run: Annotated[bool, Option("List the cells, and which of them are there already.")] = False
    restart: Annotated[bool, Option("Forget the cells of earlier runs in OUT.")] = False
    out: Path | None = None
    overwrite: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.out is None and not self.dry_run:
            raise UsageError("where to? give -o OUT, or --dry-run to see the cells only")
        for name, what in (("methods", "magnitude,taylor"), ("targets", "80%,60%"), ("train_tokens", "0,1M")):
            values = getattr(self, name)
            if not values:
                raise UsageError(f"{option_name(name)} names none; write it as {what}")
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise UsageError(f"{option_name(name)} has {twice[:60]} twice; name each once")
        if self.data is None or self.held_out is None:
            raise UsageError("on what text? give --data to calibrate and train on, and --held-out to report on")
        for name, value, limits in wrong_fields(self):
            if isinstance(value, str):
                check_choice(option_name(name), value, limits.choices)
            raise UsageError(f"{field_option(name)} must be {describe_bounds(limits.bounds)}, not {str(value)[:40]}")
        self.check_amounts()
        check_windows(self.window or WINDOW, self.stride, 1, self.bos)
        check_device(self.device)
        self.check_texts()
        if self.task_limit is not None and not self.tasks:
            raise UsageError("--task-limit is of --tasks, and none is named")

    def check_amounts(self) -> None:
        """Read every target and every number of tokens. Raises UsageError."""
        for target in self.targets:
            read_target(target)
        for count in self.train_tokens:
            try:
                read_tokens(count)
            except ValueError as error:
                raise UsageError(f"--train-tokens {count[:40]}: write 0 for no training, or 2M, 500k, 1e6") from error
        for name, values, read in self.amounts():
            known = [read(value) for value in values]
            twice = next((value for value, one in zip(values, known, strict=True) if known.count(one) > 1), None)
            if twice is not None:
                raise UsageError(f"{name} has {twice} twice, written in two ways; name each once")

    def amounts(self) -> Iterator[tuple[str, tuple[str, ...], Callable[[str], object]]]:
        yield "--targets", self.targets, lambda text: tuple(read_target(text))
        yield "--train-tokens", self.train_tokens, read_tokens

    def check_texts(self) -> None:
        """Raise UsageError where a method would see text that is reported on."""
        assert self.data is not None
        assert self.held_out is not None
        for option, used in (("--data", self.data), ("--search", self.searched)):
            if overlap(used, self.held_out):
                where = "" if option == "--data" or self.search else ", from which the text for choices is taken"
                raise UsageError(
                    f"--held-out {self.held_out[:60]} is (a part of) {used[:60]}{where}; report on a text that no "
                    "method sees" + ("" if option == "--data" else ", or name another with --search")
                )

    @property
    def searched(self) -> str:
        """The text that choices are made by."""
        assert self.data is not None
        return self.search or each_domain(self.data, held_out_of)

    @property
    def calibrated(self) -> str:
        """The text that is calibrated and trained on."""
        assert self.data is not None
        return self.data if self.search is not None else each_domain(self.data, train_of)


def field_option(name: str) -> str:
    """The option of a field: `--bytes` for `text_bytes`."""
    return option_name(name.removeprefix("text_"))


def read_tokens(text: str) -> int:
    """A number of tokens, which may be none. Raises ValueError."""
    return 0 if text.strip() == NO_TRAINING else parse_count(text)


def overlap(one: str, other: str) -> bool:
    """Say whether two sources have text in common, as far as their names tell; each may be several."""
    return any(overlap_of_two(a.spec, b.spec) for a in split_domains(one) for b in split_domains(other))


def overlap_of_two(one: str, other: str) -> bool:
    (name, part), (second, rest) = split_name(one), split_name(other)
    if name in LIBRARY or second in LIBRARY:
        return one == other
    same = name == second or (Path(name).exists() and Path(second).exists() and Path(name).samefile(second))
    return same and (part is None or rest is None or part == rest)
