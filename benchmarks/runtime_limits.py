"""What fitting a runtime costs: one model compiled for each, beside the plan that nothing limits.

    python benchmarks/runtime_limits.py [--model demo] [--target 60%] [--method taylor] [--data TEXT] [--keep FOLDER]

Prints a table: parameters, held-out perplexity, and what the layers keep. The embedded model takes a minute for each.
docs/runtimes.md has what was found.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from graphprune.compiler.compile import compile_model
from graphprune.errors import GraphpruneError
from graphprune.pipeline.options import CompileOptions
from graphprune.reporting.results import Result
from graphprune.runtimes.known import NAMES


def span(result: Result, kind: str) -> str:
    """The counts that the layers keep of a kind."""
    counts = [width.after for width in result.widths if width.kind == kind]
    return "-" if not counts else str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def row(name: str, options: CompileOptions) -> str:
    try:
        result = compile_model(options)
    except GraphpruneError as error:
        return f"| {name} | {str(error)[:160]} | | | |"
    measures = {measure.name: measure.after for measure in result.measures}
    quality = measures.get("held-out perplexity")
    shown = "-" if quality is None else f"{quality:.1f}"
    return f"| {name} | {measures['parameters']:,.0f} | {shown} | {span(result, 'attention')} | {span(result, 'mlp')} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--target", default="60%")
    parser.add_argument("--method", default=CompileOptions.method)
    parser.add_argument("--data", default=CompileOptions.data)
    parser.add_argument("--keep", type=Path, help="a folder for what is made")
    parser.add_argument("--runtimes", default=",".join(NAMES))
    given = parser.parse_args()
    common: dict[str, Any] = {"method": given.method, "data": given.data}
    print(
        "| for | parameters | held-out perplexity | attention groups | MLP channels |\n|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        places = given.keep or Path(folder)
        for name, step in (("nothing, exact widths", 1), ("nothing", None)):
            place = places / name.replace(" ", "-")
            options = CompileOptions(
                given.model, given.target, place, backends=("huggingface",), round_to=step, **common
            )
            print(row(name, options), flush=True)
        for runtime in given.runtimes.split(","):
            print(
                row(runtime, CompileOptions(given.model, given.target, places / runtime, runtime=runtime, **common)),
                flush=True,
            )


if __name__ == "__main__":
    main()
