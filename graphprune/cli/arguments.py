"""The arguments that several commands share, each with the help that teaches it."""

from pathlib import Path
from typing import Annotated

import typer

from graphprune.pipeline.options import DEVICE_HELP

MODEL_HELP = "A model folder, a hub id (org/name), or [bold]demo[/bold], the embedded model."

Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
ModelOrRun = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help=f"{MODEL_HELP} Or a run.yaml, which says what all the options say, as `graphprune init` writes one.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="OUT", help="The folder to write; it must not exist.", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT where an earlier run wrote it.")]
Backends = Annotated[str, typer.Option(help="What to write, separated by commas. `graphprune list backends` has all.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that the model brings. Read it first.")]
Device = Annotated[str, typer.Option(metavar="DEVICE", help=DEVICE_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES",
        help="Weights in memory at most, for a mixture of experts: 500MB or 50%. Experts are read from the checkpoint "
        "as tokens are routed to them, with the same result. [dim]default: all are in memory[/dim]",
        show_default=False,
    ),
]
Loads = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="With --memory: write a JSON line for each expert read and used.", show_default=False
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="OUT", help="A folder that compile wrote.", show_default=False)]
