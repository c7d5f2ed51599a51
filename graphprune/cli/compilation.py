"""`graphprune compile` and `graphprune apply`."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from graphprune.artefacts.staging import telling_of
from graphprune.cli.arguments import Backends, Json, Model, ModelOrRun, Out, Overwrite, Trust
from graphprune.cli.completion import values_of
from graphprune.cli.console.estimate import COMPILATION
from graphprune.cli.console.show import print_result
from graphprune.cli.console.stages import progress_on_stderr
from graphprune.cli.console.terminal import warn
from graphprune.errors import InterruptedRunError, UsageError
from graphprune.garbage import importing
from graphprune.pipeline.options import (
    ApplyOptions,
    CompileOptions,
    Part,
    explained_options,
    option_name,
    typed_fields,
    work_folder,
)
from graphprune.pipeline.panels import PANELS
from graphprune.pipeline.run_file import Merged, is_run_file, merge_run
from graphprune.processes import Spare, is_first, process_began, spare_process
from graphprune.progress import no_progress
from graphprune.reporting.results import Result
from graphprune.spec import split_commas
from graphprune.suggestions import AUTO

EXAMPLES = """[bold]Examples[/bold]

graphprune compile demo -o demo-out --target-params 60%

graphprune compile ./llama -o small --target-params 1B --data corpus.txt --uniform

graphprune compile ./llama --target-params 50% --prune mlp,attention --dry-run

graphprune compile ./llama -o small --target-size 500MB --backends "ort{precision=int4,embeddings=true}"

graphprune compile ./llama -o small --target-speed 2x --round-to auto --backends huggingface,ort

graphprune compile ./llama -o small --target-params 70% --importance "taylor{gradients=batch}" --steps 5

graphprune compile ./llama -o small --vocabulary 16000 --data corpus.txt

graphprune compile ./llama -o small --method sparse --pattern 2:4 --data corpus.txt

graphprune compile ./llama -o small --target-params 60% --method adapt-accel --data corpus.txt --train-tokens 2M

graphprune compile run.yaml -o again --target-params 50%

[bold]Methods[/bold]

`graphprune list methods` shows them; what an option leaves out has the method's value.
A run that trains keeps its state beside OUT: after a stop, the same command goes on from there."""


def register(app: typer.Typer, asked: str | None) -> None:
    found = compile_parameters() if asked in (None, "compile") else ()
    vars(compile_command)["__signature__"] = Signature(list(found))  # which typer makes options of
    app.command("compile", epilog=EXAMPLES)(compile_command)
    app.command("apply")(apply_command)


def read_rounding(text: str) -> int | Literal["auto"]:
    if text == AUTO:
        return AUTO
    if not text.isdecimal():
        raise UsageError(f"--round-to is a whole number or auto, not {text}")
    return int(text)


def read_ends(text: str) -> tuple[float, ...]:
    try:
        first, last = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--protect is two numbers of layers, of the first and of the last, or shares of all: 4,2; not {text[:40]}"
        ) from None
    return first, last


class Typed(NamedTuple):
    """How a field is typed, where a command line has another type for it, and how that is read."""

    annotation: Any
    read: Callable[[Any], Any]


TYPED = {
    "prune": Typed(str, split_commas),
    "backends": Typed(str, split_commas),
    "round_to": Typed(str, read_rounding),
    "protect": Typed(str, read_ends),
    "within": Typed(str, split_commas),
    "settings": Typed(list[str], tuple),
}


def compile_parameters() -> Iterator[Parameter]:
    """The parameters of the command, made of the fields of CompileOptions and of those that several commands share."""
    yield Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)
    yield Parameter("model", Parameter.KEYWORD_ONLY, annotation=ModelOrRun)
    for panel, names in PANELS.items():
        for name in names:
            yield make_parameter(name, panel)
    shared = {"out": Out, "backends": Backends, "overwrite": Overwrite, "trust_remote_code": Trust, "as_json": Json}
    defaults = {"out": None, "backends": ",".join(CompileOptions.backends)}
    for name, annotation in shared.items():
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=defaults.get(name, False), annotation=annotation)


def make_parameter(name: str, panel: str) -> Parameter:
    """The parameter for a field of CompileOptions."""
    explained, plain = explained_options()[name], typed_fields(CompileOptions)[name]
    option = typer.Option(
        option_name(name),
        help=explained.help,
        metavar=explained.metavar,
        rich_help_panel=panel,
        autocompletion=values_of(name),
    )
    annotation = TYPED[name].annotation | None if name in TYPED else plain
    default = None if name in TYPED else getattr(CompileOptions, name)
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, option])


def compile_command(context: typer.Context, as_json: bool, **typed: Any) -> None:
    """Make a model smaller: prune it to a size, train it where the method does, write it, check what was written, and
    measure it. A run.yaml in place of MODEL says all that the options say; those beside it win."""
    given = {name: value for name, value in typed.items() if value is not None and is_given(context, name)}
    values = {n: TYPED[n].read(value) if n in TYPED else value for n, value in given.items()}
    merged = merge_run(Path(values.pop("model")), values) if is_run_file(typed["model"]) else Merged(values, ())
    for note in merged.notes if is_first() else ():
        warn(f"note: {note}")
    options = CompileOptions(**merged.values)
    from graphprune.compiler.preflight import check_request

    check_request(options)
    with telling_how_to_go_on(options.out), telling_of(options.out):
        result = run_compile(options)
        if is_first():
            print_result(result, as_json)


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, and is not at its default."""
    source = context.get_parameter_source(name)
    return source is None or source.name != "DEFAULT"


@contextlib.contextmanager
def telling_how_to_go_on(out: Path | None) -> Iterator[None]:
    """Say of a run that is stopped, and has kept its state, that it can go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        if out is None or not work_folder(out).exists():
            raise
        raise InterruptedRunError(
            f"interrupted; the same command goes on from {work_folder(out)}, with --restart it begins again"
        ) from error


@contextlib.contextmanager
def spare_for_check(fresh: bool) -> Iterator[Spare | None]:
    """Fork the process that will check, if this one is `fresh`, with all imported that both need."""
    if not fresh:
        yield None
        return
    with importing():
        import transformers.modeling_utils  # noqa: F401

        from graphprune.artefacts.check_process import main_of_spare

    with spare_process(main_of_spare) as spare:
        yield spare


def run_compile(options: CompileOptions) -> Result:
    fresh = "torch" not in sys.modules
    with importing():
        from graphprune.pipeline.resolution import resolve_recipe

        resolve_recipe(options)  # a wrong option of a plug-in is told before all else is imported
        from graphprune.compiler.compile import compile_model

    shown = progress_on_stderr(COMPILATION) if is_first() else contextlib.nullcontext(no_progress)
    with spare_for_check(fresh and is_first() and not options.dry_run) as spare, shown as progress:
        return compile_model(options, progress, process_began(), spare)


def apply_command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan.json that compile wrote.", show_default=False)],
    model: Model,
    out: Out = None,
    backends: Backends = ",".join(ApplyOptions.backends),
    overwrite: Overwrite = False,
    trust_remote_code: Trust = False,
    part: Annotated[Part, typer.Option(help=explained_options()["part"].help)] = "whole",
    memory: Annotated[
        str | None, typer.Option(metavar="BYTES", help=explained_options()["memory"].help, show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Cut a model by a saved plan: the same plan on the same model gives the same weights, bit for bit."""
    if out is None:
        raise UsageError("where to? give -o OUT")
    options = ApplyOptions(model, plan, out, split_commas(backends), overwrite, trust_remote_code, part, memory)
    from graphprune.compiler.preflight import check_replay

    check_replay(options)
    fresh = "torch" not in sys.modules
    with importing():
        from graphprune.compiler.compile import apply_plan

    with telling_of(out):
        with spare_for_check(fresh) as spare, progress_on_stderr() as progress:
            result = apply_plan(options, progress, process_began(), spare)
        print_result(result, as_json)
