"""`graphprune compare`: many methods on one model, in one table and on one page."""

import time
from collections.abc import Callable, Iterator, Sequence
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphprune.cli.arguments import Json, Model, Out, Overwrite, Trust
from graphprune.cli.console.estimate import words
from graphprune.cli.console.show import print_json, print_table
from graphprune.cli.console.stages import progress_on_stderr
from graphprune.cli.console.terminal import say
from graphprune.comparison.options import CompareOptions, field_option
from graphprune.errors import GraphpruneError, InterruptedRunError
from graphprune.garbage import importing
from graphprune.pipeline.options import explained_options, typed_fields
from graphprune.progress import Progress
from graphprune.spec import split_commas

if TYPE_CHECKING:
    from graphprune.comparison.compare import Prepared
    from graphprune.comparison.schema import Comparison

EXAMPLES = """[bold]Examples[/bold]

graphprune compare ./llama -o OUT --methods magnitude,taylor,adapt-pruner-ls --targets 80%,60% \
--data train.txt --held-out val.txt

graphprune compare ./llama -o OUT --methods "taylor,second=taylor{order=2}+uniform+bias,./mine.yaml" --targets 80% \
--seeds 3 --data train.txt --held-out val.txt

graphprune compare ./llama -o OUT --methods taylor,adapt-accel --targets 60% --train-tokens 0,1M \
--set recover.lr=1e-4 --data train.txt --held-out val.txt

graphprune compare ./llama -o OUT --methods taylor --targets 80% --data train.txt --held-out test.txt \
--tokens 8192 --window 512 --stride 512 --no-bos

[bold]What a row is[/bold]

A recipe (`graphprune list methods`), the file of one, or parts: importance+allocation+compensation, where global \
and none stand for parts that are left out. Plug-ins of others are parts too. NAME= in front names the row.

[bold]What is fair about it[/bold]

Every model is cut to the same number of real parameters, sees the same calibration windows at one seed, and is \
reported on a text that no method sees. Each cell is a process of its own; the same command goes on after a stop, \
and cells that are there are not measured again. OUT gets compare.json, compare.md and compare.html."""

PANELS = {
    "What to compare": ("methods", "targets", "train_tokens", "seeds", "settings"),
    "What text": ("data", "held_out", "search", "field", "samples", "length"),
    "How to measure": ("window", "stride", "bos", "text_bytes", "text_tokens", "tasks", "eval_data", "task_limit"),
    "How to run": ("jobs", "device", "precision", "keep", "dry_run", "restart"),
}
LISTS: dict[str, Callable[[str], tuple[str, ...]]] = dict.fromkeys(
    ("methods", "targets", "train_tokens", "tasks"), split_commas
)


def register(app: typer.Typer, asked: str | None) -> None:
    found = compare_parameters() if asked in (None, "compare") else ()
    vars(compare_command)["__signature__"] = Signature(list(found))  # which typer makes options of
    app.command("compare", epilog=EXAMPLES)(compare_command)


def compare_parameters() -> Iterator[Parameter]:
    """The parameters of the command, made of the fields of CompareOptions and of those that several commands share."""
    yield Parameter("model", Parameter.KEYWORD_ONLY, annotation=Model)
    for panel, names in PANELS.items():
        for name in names:
            yield make_parameter(name, panel)
    shared = {"out": Out, "overwrite": Overwrite, "trust_remote_code": Trust, "as_json": Json}
    for name, annotation in shared.items():
        default = None if name == "out" else False
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def make_parameter(name: str, panel: str) -> Parameter:
    """The parameter for a field of CompareOptions."""
    explained, plain = explained_options(CompareOptions)[name], typed_fields(CompareOptions)[name]
    default = getattr(CompareOptions, name)
    names = [f"{field_option(name)}/--no-{name}" if name == "bos" else field_option(name)]
    option = typer.Option(
        *names,
        help=explained.help,
        metavar=explained.metavar,
        rich_help_panel=panel,
        show_default=default not in (None, ()),
    )
    if name == "settings":
        return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[list[str] | None, option])
    if name in LISTS:
        text = ",".join(default) or None
        return Parameter(name, Parameter.KEYWORD_ONLY, default=text, annotation=Annotated[str | None, option])
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[plain, option])


def compare_command(as_json: bool, **typed: Any) -> None:
    """Compare methods: cut one model by each to the same sizes, under one protocol, and write one table and one page.

    Bits per byte of a text that no method sees, accuracy on tasks, real parameters, seconds, memory; over seeds.
    """
    given = {name: value for name, value in typed.items() if value is not None}
    given |= {name: read(given[name]) for name, read in LISTS.items() if name in given}
    given |= {"settings": tuple(given["settings"])} if "settings" in given else {}
    options = CompareOptions(**given)
    from graphprune.comparison.compare import prepare
    from graphprune.comparison.kept import check_out

    prepared = prepare(options)
    if options.out is not None and not options.dry_run:
        check_out(options, prepared.plans)
    if options.dry_run:
        print_plans(options, prepared, as_json)
        return
    comparison = run_compare(options)
    if as_json:
        print_json(comparison.model_dump())
    else:
        print_comparison(comparison, options)
    from graphprune.comparison.compare import failures

    if said := failures(comparison):
        raise GraphpruneError(said)


def run_compare(options: CompareOptions) -> "Comparison":
    with importing():
        from graphprune.comparison.compare import compare
    with progress_on_stderr() as progress:
        try:
            return compare(options, with_time_left(progress))
        except KeyboardInterrupt as error:
            raise InterruptedRunError(
                f"interrupted; the same command goes on from {options.out}, with --restart it begins again"
            ) from error


def with_time_left(progress: Progress, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Progress that also says how much longer all cells take, by what those that ended took."""
    began = clock()

    def tell(stage: str, done: int = 0, total: int = 0, detail: str = "", part: tuple[int, int] = (1, 1)) -> None:
        left = words((clock() - began) / done * (total - done)) if 0 < done < total else ""
        progress(stage, done, total, ", ".join(filter(None, (left, detail))), part)

    return tell


def print_plans(options: CompareOptions, prepared: "Prepared", as_json: bool) -> None:
    """The cells that a run would measure, and those that are there."""
    from graphprune.comparison.kept import read_cell

    there = {plan.key for plan in prepared.plans if options.out is not None and read_cell(options.out, plan)}
    rows = [
        (plan.method, plan.target, str(plan.seed), f"{plan.tokens:,}", plan.key, "there" if plan.key in there else "")
        for plan in prepared.plans
    ]
    if as_json:
        names = ("method", "target", "seed", "tokens", "key", "state")
        print_json({"cells": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    print_table("Cells", ("method", "target", "seed", "trained on", "key", ""), rows, left=(0, 1, 4, 5))
    say(f"{len({row[4] for row in rows} - there)} to measure; dry run: nothing was written")


def print_comparison(comparison: "Comparison", options: CompareOptions) -> None:
    """Bits per byte of every method, and where all the rest is."""
    from graphprune.comparison.tables import overview

    for tokens in comparison.train_tokens:
        table = overview(comparison, tokens)
        rows: Sequence[Sequence[str]] = [
            [f"{entry.text} *" if entry.look == "best" else entry.text for entry in row] for row in table.rows
        ]
        print_table(table.title, table.columns, rows)
        for note in table.notes:
            say(f"note: {note}")
        if table.notes:
            say()
    for note in comparison.notes:
        say(f"note: {note}")
    say(f"* the best; seconds, memory and plots are in {options.out}/compare.html")
