"""`graphprune compile` and `graphprune apply`."""

import contextlib
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from graphprune.artefacts.staging import check_output
from graphprune.cli.arguments import DEVICE_HELP, Backends, Json, Model, Out, Overwrite, Trust, split_commas
from graphprune.cli.show import print_result, progress_on_stderr
from graphprune.errors import InterruptedRunError, UsageError
from graphprune.garbage import uncollected
from graphprune.ir.plan import Statistics
from graphprune.pipeline.options import PRUNABLE, ApplyOptions, CompileOptions, work_folder
from graphprune.processes import is_first
from graphprune.progress import no_progress
from graphprune.reporting.results import Result
from graphprune.suggestions import AUTO

EXAMPLES = """[bold]Examples[/bold]

graphprune compile demo -o demo-out --target-params 60%

graphprune compile ./llama -o small --target-params 1B --data corpus.txt --uniform

graphprune compile ./llama --target-params 50% --prune mlp,attention --dry-run

graphprune compile ./llama -o small --target-size 500MB --backends "ort{precision=int4,embeddings=true}"

graphprune compile ./llama -o small --target-speed 2x --round-to auto --backends huggingface,ort

graphprune compile ./llama -o small --target-params 70% --importance "taylor{gradients=batch}" --steps 5

graphprune compile ./llama -o small --vocabulary 16000 --data corpus.txt

graphprune compile ./llama -o small --target-params 60% --method adapt-accel --data corpus.txt --train-tokens 2M

[bold]Methods[/bold]

`graphprune list methods` shows them; what an option leaves out has the method's value.
A run that trains keeps its state beside OUT: after a stop, the same command goes on from there."""

SIZE, METHOD, DATA, RESULT = "What to cut", "How to choose", "What text to look at", "What to write"
TRAIN, PLACE = "How to train", "Where to compute"


def option(panel: str, help: str, **settings: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=panel, **settings)


PRUNE_HELP = (
    f"What may shrink: {', '.join(PRUNABLE)}; or auto, which cuts MLP channels and attention groups, and the residual "
    "width where these can not reach the size."
)
TARGET_HELP = "Parameters of the result at most: 1B, 600M, 6e8 or a share such as 60%."
FILE_HELP = "Instead: bytes of every model file at most, 500MB or 60%; or of one, onnx-int4:500MB."
CACHE_HELP = "Instead: bytes of cache that a token of context takes at most, in float32: 32KiB or 50%."
SPEED_HELP = "Instead: decode so many times as fast in onnxruntime on this machine, which is measured first: 2x."
VOCABULARY_HELP = "Keep so many tokens, which --data uses most: 16000, 16k or 50%. Alone, or the rest meets the target."
ROUND_HELP = "Make widths multiples of this; auto measures which widths onnxruntime is fast with."

Target = Annotated[str | None, option(SIZE, TARGET_HELP, metavar="SIZE", show_default=False)]
TargetSize = Annotated[str | None, option(SIZE, FILE_HELP, metavar="BYTES")]
TargetCache = Annotated[str | None, option(SIZE, CACHE_HELP, metavar="BYTES")]
TargetSpeed = Annotated[str | None, option(SIZE, SPEED_HELP, metavar="TIMES")]
Prune = Annotated[str | None, option(SIZE, PRUNE_HELP, metavar="KINDS")]
Vocabulary = Annotated[str | None, option(SIZE, VOCABULARY_HELP, metavar="TOKENS")]
RoundTo = Annotated[str | None, option(SIZE, ROUND_HELP, metavar="N|auto")]
MinUnits = Annotated[int | None, option(SIZE, "Keep at least so many units a group.")]
Floor = Annotated[float | None, option(SIZE, "Keep at least this share of every group: 0.2 is a fifth.")]
Uniform = Annotated[bool, typer.Option("--uniform", help="Equal widths: a stock checkpoint.", rich_help_panel=SIZE)]
Method = Annotated[str, option(METHOD, "A recipe: graphprune list methods; or the path of one.", metavar="NAME")]
Importance = Annotated[str | None, option(METHOD, "What makes a unit worth keeping: graphprune list.", metavar="SPEC")]
Allocation = Annotated[str | None, option(METHOD, "How the size is shared out among layers.", metavar="SPEC")]
Compensation = Annotated[
    str | None, option(METHOD, "How the weights left make up for the others; none for not.", metavar="SPEC")
]
Steps = Annotated[int | None, option(METHOD, "Prune in so many rounds (of each stage), each scored anew.")]
Averages = Annotated[Statistics | None, option(METHOD, "What norms over a cut residual width average over.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Another field of the recipe: recover.clip=0.5.", metavar="KEY=VALUE", rich_help_panel=METHOD
    ),
]
Seed = Annotated[int, option(METHOD, "Seed of everything random.")]
TrainTokens = Annotated[str | None, option(TRAIN, "Train on so many tokens in all: 2M.", metavar="COUNT")]
Stages = Annotated[int | None, option(TRAIN, "Prune and train in so many turns.")]
Rate = Annotated[float | None, option(TRAIN, "The peak learning rate.")]
RESTART_HELP = "Discard what an unfinished run has kept beside OUT, and begin again."
Restart = Annotated[bool, typer.Option("--restart", help=RESTART_HELP, rich_help_panel=TRAIN)]
DATA_HELP = "A text, jsonl or parquet file, a datasets id, or stdlib, Python's own library."
HELD_HELP = "Text that is only measured on; without it a part of --data is set aside."
Data = Annotated[str, option(DATA, DATA_HELP, metavar="TEXT")]
HeldOut = Annotated[str | None, option(DATA, HELD_HELP, metavar="TEXT")]
Samples = Annotated[int | None, option(DATA, "Windows of text to look at.")]
Length = Annotated[int | None, option(DATA, "Tokens in each window.")]
DRY_HELP = "Show widths and sizes only; a config.json is enough."
DryRun = Annotated[bool, typer.Option("--dry-run", help=DRY_HELP, rich_help_panel=RESULT)]
PRECISION_HELP = (
    "What training multiplies in: auto is bf16 on a GPU that has it, else float32. Weights, scores and least squares "
    "are float32 or wider in any case."
)
Device = Annotated[str, option(PLACE, DEVICE_HELP, metavar="DEVICE")]
Precision = Annotated[Literal["auto", "float32", "bf16"], option(PLACE, PRECISION_HELP)]


def register(app: typer.Typer) -> None:
    app.command("compile", epilog=EXAMPLES)(compile_command)
    app.command("apply")(apply_command)


_READ = ("prune", "round_to", "settings", "backends", "as_json")  # what is not an option of the library as it is


def compile_command(
    model: Model,
    target_params: Target = None,
    target_size: TargetSize = None,
    target_kv_bytes: TargetCache = None,
    target_speed: TargetSpeed = None,
    vocabulary: Vocabulary = None,
    out: Out = None,
    prune: Prune = None,
    round_to: RoundTo = None,
    min_units: MinUnits = None,
    floor: Floor = None,
    uniform: Uniform = False,
    method: Method = CompileOptions.method,
    importance: Importance = None,
    allocation: Allocation = None,
    compensation: Compensation = None,
    steps: Steps = None,
    statistics: Averages = None,
    settings: Settings = None,
    seed: Seed = 0,
    train_tokens: TrainTokens = None,
    stages: Stages = None,
    lr: Rate = None,
    restart: Restart = False,
    data: Data = CompileOptions.data,
    held_out: HeldOut = None,
    samples: Samples = None,
    length: Length = None,
    device: Device = AUTO,
    precision: Precision = AUTO,
    backends: Backends = "huggingface,onnx",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Make a model smaller: prune it to a size, train it where the method does, write it, check what was written, and
    measure it."""
    given = {name: value for name, value in locals().items() if name not in _READ}
    options = CompileOptions(
        round_to=read_rounding(round_to),
        prune=None if prune is None else split_commas(prune),
        settings=tuple(settings or ()),
        backends=split_commas(backends),
        **given,
    )
    if out is not None and not dry_run:
        check_output(out, overwrite)
    result = run_compile(options)
    if is_first():
        print_result(result, as_json)


def read_rounding(text: str | None) -> int | Literal["auto"] | None:
    if text is None or text == "auto":
        return text  # type: ignore[return-value]
    if not text.isdecimal():
        raise UsageError(f"--round-to is a whole number or auto, not {text}")
    return int(text)


def run_compile(options: CompileOptions) -> Result:
    with uncollected():
        from graphprune.compiler.compile import compile_model

    with progress_on_stderr() if is_first() else contextlib.nullcontext(no_progress) as progress:
        try:
            return compile_model(options, progress)
        except KeyboardInterrupt as error:
            if options.out is None or not work_folder(options.out).exists():
                raise
            raise InterruptedRunError(
                f"interrupted; the same command goes on from {work_folder(options.out)}, with --restart it begins again"
            ) from error


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
    with uncollected():
        from graphprune.compiler.compile import apply_plan

    options = ApplyOptions(model, plan, out, split_commas(backends), overwrite, trust_remote_code)
    with progress_on_stderr() as progress:
        result = apply_plan(options, progress)
    print_result(result, as_json)
