"""`graphprune compile` and `graphprune apply`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from graphprune.cli.arguments import Backends, Json, Model, Out, Overwrite, Trust, split_commas
from graphprune.cli.show import print_result, progress_on_stderr
from graphprune.errors import UsageError
from graphprune.options import PRUNABLE, ApplyOptions, CompileOptions, Result, check_output
from graphprune.plan import Statistics

EXAMPLES = """[bold]Examples[/bold]

graphprune compile demo -o demo-out --target-params 60%

graphprune compile ./llama -o small --target-params 1B --data corpus.txt --uniform

graphprune compile ./llama --target-params 50% --prune mlp,attention,blocks --dry-run

graphprune compile ./llama -o small --target-params 70% --importance "taylor{gradients=batch}" --steps 5"""

SIZE, METHOD, DATA, RESULT = "What to cut", "How to choose", "What text to look at", "What to write"


def option(panel: str, help: str, **settings: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=panel, **settings)


PRUNE_HELP = (
    f"What may shrink: {', '.join(PRUNABLE)}; or auto, which cuts MLP channels and attention groups, and the residual "
    "width where these can not reach the size."
)
TARGET_HELP = "Parameters of the result at most: 1B, 600M, 6e8 or a share such as 60%."

Target = Annotated[str, option(SIZE, TARGET_HELP, metavar="SIZE", show_default=False)]
Prune = Annotated[str, option(SIZE, PRUNE_HELP, metavar="KINDS")]
RoundTo = Annotated[int, option(SIZE, "Make widths multiples of this.")]
MinUnits = Annotated[int, option(SIZE, "Keep at least so many units a group.")]
Floor = Annotated[float | None, option(SIZE, "Keep at least this share of every group: 0.2 is a fifth.")]
Uniform = Annotated[bool, typer.Option("--uniform", help="Equal widths: a stock checkpoint.", rich_help_panel=SIZE)]
Importance = Annotated[str, option(METHOD, "What makes a unit worth keeping: graphprune list.", metavar="SPEC")]
Allocation = Annotated[str, option(METHOD, "How the size is shared out among layers.", metavar="SPEC")]
Steps = Annotated[int, option(METHOD, "Prune in so many rounds, each scored anew.")]
Averages = Annotated[Statistics, option(METHOD, "What norms over a cut residual width average over.")]
Seed = Annotated[int, option(METHOD, "Seed of everything random.")]
DATA_HELP = "A text, jsonl or parquet file, a datasets id, or stdlib, Python's own library."
Data = Annotated[str, option(DATA, DATA_HELP, metavar="TEXT")]
Samples = Annotated[int, option(DATA, "Windows of text to look at.")]
Length = Annotated[int, option(DATA, "Tokens in each window.")]
DRY_HELP = "Show widths and sizes only; a config.json is enough."
DryRun = Annotated[bool, typer.Option("--dry-run", help=DRY_HELP, rich_help_panel=RESULT)]


def register(app: typer.Typer) -> None:
    app.command("compile", epilog=EXAMPLES)(compile_command)
    app.command("apply")(apply_command)


def compile_command(
    model: Model,
    target_params: Target,
    out: Out = None,
    prune: Prune = "auto",
    round_to: RoundTo = 1,
    min_units: MinUnits = 1,
    floor: Floor = None,
    uniform: Uniform = False,
    importance: Importance = "taylor",
    allocation: Allocation = "global",
    steps: Steps = 1,
    statistics: Averages = "survivors",
    seed: Seed = 0,
    data: Data = "stdlib",
    samples: Samples = 128,
    length: Length = 128,
    backends: Backends = "huggingface,onnx",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
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
