"""`graphprune inspect` and `graphprune explain`: what can shrink in a model, what can not, and why."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphprune.amounts import show_amount
from graphprune.cli.arguments import Json, Model, Trust
from graphprune.cli.console.show import print_json, print_table
from graphprune.cli.console.stages import progress_on_stderr
from graphprune.cli.console.terminal import say
from graphprune.cli.looks import check_folder
from graphprune.cli.runtimes import describe_runtime, print_runtime
from graphprune.errors import UsageError, first_line
from graphprune.runtimes.known import RuntimeName, find_runtime

if TYPE_CHECKING:
    from graphprune.analysis.groups import Groups
    from graphprune.ir.graph import Graph
    from graphprune.progress import Progress
    from graphprune.reporting.schema import Report

EXAMPLES = """[bold]Examples[/bold]

graphprune inspect demo

graphprune inspect demo --html demo.html

graphprune inspect ./llama --html llama.html --report ./small

graphprune inspect demo --for vllm

graphprune explain demo model.layers.0.mlp.up_proj.weight:0 model.layers.0.mlp.down_proj.weight:1"""

Dimension = "A weight and one of its dimensions: model.layers.0.mlp.up_proj.weight:0."


def register(app: typer.Typer, asked: str | None) -> None:
    app.command("inspect", epilog=EXAMPLES)(inspect_command)
    app.command("explain", epilog=EXAMPLES)(explain_command)


def inspect_command(
    model: Model,
    graph: Annotated[bool, typer.Option("--graph", help="Print the captured graph instead.")] = False,
    passes: Annotated[bool, typer.Option("--passes", help="Print the passes that made the graph instead.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw it for a browser: one file, block by block.", show_default=False),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT",
            help="With --html: a folder that compile made of MODEL; its scores show how sensitive each layer is, its "
            "widths what was cut.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the FILE of --html where it exists.")] = False,
    runtime: Annotated[
        RuntimeName | None,
        typer.Option("--for", help="Print what this runtime holds of it instead, why, and how to open it there."),
    ] = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Show what can shrink: groups by kind and block, what a unit costs, and every lock with its reason.

    Only the configuration is read; a folder with nothing but config.json is enough.
    """
    check_page(html, report, overwrite)
    found = read_report(report) if report else None
    captured, groups = analyse_model(model, trust_remote_code)
    if html is not None:
        write_page(html, overwrite, captured, groups, found)
    if as_json:
        asked: dict[str, object] = {"graph": str(captured)} if graph else {}
        asked |= {"passes": captured.cleanups} if passes else {}
        asked |= {"for": describe_runtime(captured, groups, find_runtime(runtime))} if runtime else {}
        print_json(describe_groups(model, captured, groups) | asked)
        return
    if passes:
        print_table("Passes", ("pass", "what it did"), [(c.name, c.did or "-") for c in captured.cleanups], left=2)
    if graph:
        say(str(captured))
    if runtime:
        print_runtime(describe_runtime(captured, groups, find_runtime(runtime)))
    if html is not None:
        say(f"written to {html}")
    elif not graph and not passes and not runtime:
        print_groups(model, captured, groups)


def check_page(html: Path | None, report: Path | None, overwrite: bool) -> None:
    """Raise UsageError where a page cannot be written at this place, or where there is none to show a report on."""
    if html is None:
        if report is not None:
            raise UsageError("--report is shown on the page of --html FILE; give that too")
        return
    if html.is_dir() or not html.absolute().parent.is_dir():
        raise UsageError(f"no file can be written at {html}; name one in a folder that is there")
    if html.exists() and not overwrite:
        raise UsageError(f"{html} exists; pass --overwrite to replace it, or name another file")


def read_report(out: Path) -> "Report":
    """The report in a folder that compile wrote. Raises UsageError."""
    from pydantic import ValidationError

    from graphprune.artefacts.outputs import REPORT
    from graphprune.json_data import read_object
    from graphprune.reporting.schema import Report

    check_folder(out)
    try:
        return Report.model_validate(read_object(out / REPORT))
    except (OSError, ValueError, ValidationError) as error:
        raise UsageError(f"{out / REPORT} is no report of graphprune compile: {first_line(error)[:200]}") from error


def write_page(html: Path, overwrite: bool, graph: "Graph", groups: "Groups", report: "Report | None") -> None:
    from graphprune.reporting.structure import read_structure
    from graphprune.reporting.structure_page import structure_page

    known = {group.id for group in groups.groups}
    if report is not None and not known & {*report.importance, *(width.group for width in report.widths)}:
        raise UsageError(f"the report is of {report.source.id}, none of whose groups {graph.source.title} has")
    title, architecture = graph.source.title, graph.source.architecture
    structure = read_structure(title, architecture, groups, costs_of(groups), slopes(groups), report)
    with html.open("w" if overwrite else "x", encoding="utf-8") as file:
        file.write(structure_page(structure))


def explain_command(
    model: Model,
    first: Annotated[str, typer.Argument(metavar="A", help=Dimension, show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Show the path of operators that couples two weight dimensions, so that they can only shrink together."""
    from graphprune.analysis.explain import explain

    with progress_on_stderr() as progress:
        graph = capture_skeleton(model, trust_remote_code, progress)
    text = explain(graph, first, second)
    if as_json:
        print_json({"first": first, "second": second, "path": text.splitlines()})
    else:
        say(text)


def capture_skeleton(model: str, trust_remote_code: bool, progress: "Progress") -> "Graph":
    from graphprune.frontend.places import look_at

    look_at(model, False, trust_remote_code)
    progress(f"capturing {model}", 0, 0)
    from graphprune.frontend.source import capture

    return capture(model, weights=False, trust_remote_code=trust_remote_code)


def analyse_model(model: str, trust_remote_code: bool) -> tuple["Graph", "Groups"]:
    with progress_on_stderr() as progress:
        graph = capture_skeleton(model, trust_remote_code, progress)
        from graphprune.analysis.analyse import analyze

        progress("inferring axes", 0, 0)
        return graph, analyze(graph)


def costs_of(groups: "Groups") -> dict[str, int]:
    sizes, costs = groups.sizes(), groups.costs
    return {
        "parameters": costs.parameters(sizes),
        "weight_bytes": costs.weight_bytes(sizes),
        "macs_per_token": costs.macs_per_token(sizes),
        "cache_bytes_per_token": costs.cache_bytes_per_token(sizes),
    }


def slopes(groups: "Groups") -> dict[str, int]:
    """What one unit of each group, and each whole branch, costs in parameters."""
    sizes, parameters = groups.sizes(), groups.costs.parameters
    return {name: parameters.slope(sizes, name) for name in sizes if name in parameters.variables()}


def describe_groups(model: str, graph: "Graph", groups: "Groups") -> dict[str, object]:
    """Everything that inspect shows, as plain data."""
    prices = slopes(groups)
    rows = [
        {
            "id": group.id,
            "kind": group.kind,
            "units": group.units,
            "parameters_per_unit": prices.get(group.id, 0),
            "scope": group.scope,
            "block": group.block,
            "averaged": group.averaged,
            "locked": group.locked,
            "slots": [{"name": slot.name, "dim": slot.dim} for slot in group.slots],
        }
        for group in groups.groups
    ]
    branches = [{"id": b.id, "parameters": prices.get(b.id, 0), "caches": b.caches} for b in groups.branches]
    head = {"model": model, "architecture": graph.source.architecture, "kind": graph.source.kind}
    return head | costs_of(groups) | {"groups": rows, "branches": branches}


def print_groups(model: str, graph: "Graph", groups: "Groups") -> None:
    costs = costs_of(groups)
    units = {"weight_bytes": "bytes", "cache_bytes_per_token": "bytes"}
    parts = [f"{show_amount(value, units.get(name, ''))} {name.replace('_', ' ')}" for name, value in costs.items()]
    say(f"{model}: {graph.source.architecture or 'module'}\n{', '.join(parts)}\n")
    prices = slopes(groups)
    print_kinds(groups, prices)
    free = [g for g in groups.groups if g.locked is None]
    rows = [(g.block or "-", g.kind, g.id, f"{g.units:,}", f"{prices.get(g.id, 0):,}") for g in free]
    print_table("Groups", ("block", "kind", "group", "units", "parameters a unit"), rows, left=3)
    if groups.branches:
        branches = [(b.id, f"{prices.get(b.id, 0):,}") for b in groups.branches]
        print_table("Residual branches, which can be dropped whole", ("branch", "parameters"), branches)
    print_locks(groups)


def print_kinds(groups: "Groups", prices: dict[str, int]) -> None:
    rows = []
    for kind in dict.fromkeys(group.kind for group in groups.groups):
        members = [group for group in groups.groups if group.kind == kind]
        widths = sorted({group.units for group in members})
        span = f"{widths[0]:,}" if len(widths) == 1 else f"{widths[0]:,} to {widths[-1]:,}"
        held = sum(group.units * prices.get(group.id, 0) for group in members)
        locked = sum(group.locked is not None for group in members)
        rows.append((kind, f"{len(members):,}", span, f"{held:,}", f"{locked:,}" if locked else ""))
    print_table("Kinds", ("kind", "groups", "units", "parameters that carry it", "locked"), rows)


def print_locks(groups: "Groups") -> None:
    """One row for each reason, with the groups it holds back."""
    locked = [group for group in groups.groups if group.locked is not None]
    if not locked:
        say("nothing is locked")
        return
    counts = Counter((group.kind, group.locked) for group in locked)
    first = {(group.kind, group.locked): group.id for group in reversed(locked)}
    rows = [(kind, str(why), first[kind, why], f"{count:,}") for (kind, why), count in counts.items()]
    print_table("Locked", ("kind", "reason", "first group", "groups"), rows, left=3)
