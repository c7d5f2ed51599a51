"""`graphprune sweep`: one model at many sizes, as a curve."""

from collections.abc import Iterator
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphprune.cli.arguments import Json, Model, Out, Trust
from graphprune.cli.console.show import print_json, print_table
from graphprune.cli.console.stages import progress_on_stderr
from graphprune.cli.console.terminal import say
from graphprune.errors import InterruptedRunError
from graphprune.garbage import importing
from graphprune.pipeline.options import explained_options, typed_fields
from graphprune.runtimes.known import find_runtime
from graphprune.spec import split_commas
from graphprune.sweeping.options import SweepOptions, option_of

if TYPE_CHECKING:
    from graphprune.sweeping.schema import Curve

EXAMPLES = """[bold]Examples[/bold]

graphprune sweep ./llama -o OUT --targets 90%:30% --data corpus.txt

graphprune sweep ./llama -o OUT --targets 85% --data corpus.txt

graphprune sweep ./llama -o OUT --targets 90%:50% --for vllm --data corpus.txt

graphprune sweep ./llama -o OUT --targets 95%:60%:5% --method adapt-pruner-ls --data train.txt --held-out test.txt

graphprune apply OUT/points/60%/plan.json ./llama -o small

[bold]What OUT holds[/bold]

sweep.html, the curve and which size to take; in points a folder for each size, with its plan and the weights that \
were solved for it, of which apply makes a checkpoint and an ONNX model; and in work what later sizes use again: \
scores, libraries of levels, and every model that a search judged. The same command goes on after a stop, and one with \
other sizes adds to those that are there. work may be removed."""
PANELS = {
    "What to cut": ("targets", "prune", "round_to", "runtime"),
    "How to choose": ("method", "effort", "settings", "seed"),
    "What text": ("data", "held_out", "field", "text_bytes", "samples", "length"),
    "How to run": ("device", "restart"),
}


def register(app: typer.Typer, asked: str | None) -> None:
    found = parameters() if asked in (None, "sweep") else ()
    vars(sweep_command)["__signature__"] = Signature(list(found))  # which typer makes options of
    app.command("sweep", epilog=EXAMPLES)(sweep_command)


def parameters() -> Iterator[Parameter]:
    """The parameters of the command, made of the fields of SweepOptions and of those that several commands share."""
    yield Parameter("model", Parameter.KEYWORD_ONLY, annotation=Model)
    for panel, names in PANELS.items():
        for name in names:
            yield parameter(name, panel)
    shared = {"out": Out, "trust_remote_code": Trust, "as_json": Json}
    for name, annotation in shared.items():
        default = None if name == "out" else False
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def parameter(name: str, panel: str) -> Parameter:
    """The parameter for a field of SweepOptions."""
    explained, plain = explained_options(SweepOptions)[name], typed_fields(SweepOptions)[name]
    default = getattr(SweepOptions, name)
    option = typer.Option(
        option_of(name),
        help=explained.help,
        metavar=explained.metavar,
        rich_help_panel=panel,
        show_default=default not in (None, ()),
    )
    if name == "settings":
        return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[list[str] | None, option])
    if name == "prune":
        return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option])
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[plain, option])


def sweep_command(as_json: bool, **typed: Any) -> None:
    """Cut a model to many sizes by one method, and draw quality against size: which size to take.

    Scores and levels are made once for all sizes. Each size is a plan with its weights, of which `graphprune apply`
    makes a model in seconds.
    """
    given = {name: value for name, value in typed.items() if value is not None}
    given |= {"prune": split_commas(given["prune"])} if "prune" in given else {}
    given |= {"settings": tuple(given["settings"])} if "settings" in given else {}
    options = SweepOptions(**given)
    curve = run_sweep(options)
    if as_json:
        print_json(curve.model_dump())
    else:
        print_curve(curve, options)


def run_sweep(options: SweepOptions) -> "Curve":
    with importing():
        from graphprune.sweeping.sweep import check_sweep, sweep
    check_sweep(options)
    with progress_on_stderr() as progress:
        try:
            return sweep(options, progress)
        except KeyboardInterrupt as error:
            raise InterruptedRunError(
                f"interrupted; the same command goes on from {options.out}, with --restart it begins again"
            ) from error


def print_curve(curve: "Curve", options: SweepOptions) -> None:
    """The sizes, the advice, and where all the rest is."""
    from graphprune.sweeping.advice import advise
    from graphprune.sweeping.page import table

    found = table(curve)
    print_table(found.title, found.columns, [[entry.text for entry in row] for row in found.rows])
    for note in (*found.notes, *advise(curve)):
        say(note)
    how = f" --backends {','.join(find_runtime(options.runtime).backends)}" if options.runtime else ""
    say(f"the curve is in {options.out}/sweep.html")
    say(f"a model of a size: graphprune apply {options.out}/points/SIZE/plan.json {options.model} -o small{how}")
