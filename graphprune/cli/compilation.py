"""`graphprune compile` and `graphprune apply`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from graphprune.cli.arguments import Backends, Json, Model, Out, Overwrite, Trust, split_commas
from graphprune.cli.show import print_result, progress_on_stderr
from graphprune.errors import UsageError
from graphprune.options import PRUNABLE, ApplyOptions, CompileOptions, Result, check_output

EXAMPLES = """[bold]Examples[/bold]

graphprune compile demo -o demo-out --target-params 60%

graphprune compile ./llama -o small --target-params 1B --data corpus.txt --uniform

graphprune compile ./llama --target-params 50% --prune mlp,attention,blocks --dry-run

graphprune compile ./llama -o small --target-params 70% --importance "taylor{aggregate=vector}" --steps 5"""

SIZE, METHOD, DATA, RESULT = "What to cut", "How to choose", "What text to look at", "What to write"


def register(app: typer.Typer) -> None:
    app.command("compile", epilog=EXAMPLES)(compile_command)
    app.command("apply")(apply_command)


def compile_command(
    model: Model,
    target_params: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="Parameters of the result at most: 1B, 600M, 6e8 or a share such as 60%.",
            rich_help_panel=SIZE,
            show_default=False,
        ),
    ],
    out: Out = None,
    prune: Annotated[
        str,
        typer.Option(
            metavar="KINDS",
            help=f"What may shrink: {', '.join(PRUNABLE)}; or auto, which cuts MLP channels and attention groups, and "
            "the residual width where these can not reach the size.",
            rich_help_panel=SIZE,
        ),
    ] = "auto",
    round_to: Annotated[int, typer.Option(help="Make widths multiples of this.", rich_help_panel=SIZE)] = 1,
    min_units: Annotated[int, typer.Option(help="Keep at least so many units a group.", rich_help_panel=SIZE)] = 1,
    floor: Annotated[
        float | None,
        typer.Option(help="Keep at least this share of every group: 0.2 is a fifth.", rich_help_panel=SIZE),
    ] = None,
    uniform: Annotated[
        bool,
        typer.Option("--uniform", help="Give all layers equal widths: a stock checkpoint.", rich_help_panel=SIZE),
    ] = False,
    importance: Annotated[
        str,
        typer.Option(metavar="SPEC", help="What makes a unit worth keeping: graphprune list.", rich_help_panel=METHOD),
    ] = "taylor",
    allocation: Annotated[
        str,
        typer.Option(metavar="SPEC", help="How the size is shared out among layers.", rich_help_panel=METHOD),
    ] = "global",
    steps: Annotated[int, typer.Option(help="Prune in so many rounds, each scored anew.", rich_help_panel=METHOD)] = 1,
    statistics: Annotated[
        Literal["survivors", "exact"],
        typer.Option(help="What norms over a cut residual width average over.", rich_help_panel=METHOD),
    ] = "survivors",
    seed: Annotated[int, typer.Option(help="Seed of everything random.", rich_help_panel=METHOD)] = 0,
    data: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="A text, jsonl or parquet file, a datasets id, or stdlib, Python's own library.",
            rich_help_panel=DATA,
        ),
    ] = "stdlib",
    samples: Annotated[int, typer.Option(help="Windows of text to look at.", rich_help_panel=DATA)] = 128,
    length: Annotated[int, typer.Option(help="Tokens in each window.", rich_help_panel=DATA)] = 128,
    backends: Annotated[
        str, typer.Option(metavar="SPECS", help="Artefacts to write, by name.", rich_help_panel=RESULT)
    ] = "huggingface,onnx",
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show widths and sizes only; a config.json is enough.", rich_help_panel=RESULT),
    ] = False,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Make a model smaller: prune it to a size, write it, check what was written, and measure it."""
    options = CompileOptions(
        model=model,
        target_params=target_params,
        out=out,
        prune=split_commas(prune),
        importance=importance,
        allocation=allocation,
        steps=steps,
        data=data,
        samples=samples,
        length=length,
        seed=seed,
        round_to=round_to,
        min_units=min_units,
        floor=floor,
        uniform=uniform,
        statistics=statistics,
        backends=split_commas(backends),
        overwrite=overwrite,
        dry_run=dry_run,
        trust_remote_code=trust_remote_code,
    )
    if out is not None and not dry_run:
        check_output(out, overwrite)
    print_result(run_compile(options), as_json)


def run_compile(options: CompileOptions) -> Result:
    from graphprune.compiler import compile_model  # here, so that help needs no torch

    with progress_on_stderr() as progress:
        return compile_model(options, progress)


def apply_command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan.json that compile wrote.", show_default=False)],
    model: Model,
    out: Out = None,
    backends: Backends = "huggingface,onnx",
    overwrite: Overwrite = False,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Cut a model by a saved plan: the same plan on the same model gives the same weights, bit for bit."""
    if out is None:
        raise UsageError("where to? give -o OUT")
    check_output(out, overwrite)
    from graphprune.compiler import apply_plan

    options = ApplyOptions(model, plan, out, split_commas(backends), overwrite, trust_remote_code)
    with progress_on_stderr() as progress:
        result = apply_plan(options, progress)
    print_result(result, as_json)
