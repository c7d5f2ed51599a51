"""What `inspect --for` prints: what a runtime holds of a model, and its limits with reason and source."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from graphprune.cli.console.show import print_table
from graphprune.cli.console.terminal import say
from graphprune.errors import ExportError
from graphprune.runtimes.runtime import Runtime

if TYPE_CHECKING:
    from graphprune.analysis.groups import Groups
    from graphprune.ir.graph import Graph


def describe_runtime(graph: "Graph", groups: "Groups", runtime: Runtime) -> dict[str, Any]:
    """Everything that is printed, as plain data; `refused` says why the runtime holds no model of this source."""
    from graphprune.runtimes.limits import held

    limits = [{**asdict(limit), "words": limit.words} for limit in runtime.limits]
    found = {"limits": limits, "held": dict(held(groups, runtime)), "refused": refusal(graph, runtime)}
    return {**asdict(runtime), **found}


def refusal(graph: "Graph", runtime: Runtime) -> str | None:
    """Why one of the runtime's backends does not write this source, None where all do."""
    from graphprune.budget.installed import load_backend

    try:
        for spec in runtime.backends:
            load_backend(spec).require_source(graph)
    except ExportError as error:
        return str(error)
    return None


def print_runtime(said: dict[str, Any]) -> None:
    rows = [
        ("architecture", said["architecture"]),
        ("may differ from layer to layer", said["free"]),
        ("written by", f"--backends {','.join(said['backends'])}"),
        ("files", said["files"]),
        ("opened by", said["opened"]),
        ("known to open", said["checked"]),
    ]
    print_table(f"For {said['name']}", ("", ""), rows, left=2)
    for limit in said["limits"]:
        say(f"{', '.join(limit['kinds'])}: {limit['words']}\n  {limit['why']}")
        say(f"  {limit['source']['place']}, read {limit['source']['read']}")
    if said["held"]:
        counts, first = Counter(said["held"].values()), {why: id for id, why in reversed(said["held"].items())}
        kept = [(why, first[why], f"{count:,}") for why, count in counts.items()]
        print_table("Stays whole", ("reason", "first", "in all"), kept, left=2)
    if not said["limits"]:
        say("nothing is limited")
    say(f"refused: {said['refused']}" if said["refused"] else "this model is taken")
