"""graphprune: a compiler that turns a large language model into a small one that still works.

    graph = graphprune.capture("demo")
    groups = graphprune.analyze(graph)

Names are loaded when they are first used, so that `import graphprune` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphprune.analysis import analyze
    from graphprune.errors import GraphpruneError
    from graphprune.groups import Groups
    from graphprune.ir import Graph
    from graphprune.options import CompileOptions
    from graphprune.pass_manager import Context, Pass, run_passes
    from graphprune.plan import Plan, read_plan
    from graphprune.plugins import Allocation, Importance
    from graphprune.source import capture
    from graphprune.spec import parse_spec

__all__ = [
    "Allocation",
    "CompileOptions",
    "Context",
    "Graph",
    "GraphpruneError",
    "Groups",
    "Importance",
    "Pass",
    "Plan",
    "analyze",
    "capture",
    "parse_spec",
    "read_plan",
    "run_passes",
]

_HOMES = {
    "Allocation": "plugins",
    "CompileOptions": "options",
    "Context": "pass_manager",
    "Graph": "ir",
    "GraphpruneError": "errors",
    "Groups": "groups",
    "Importance": "plugins",
    "Pass": "pass_manager",
    "Plan": "plan",
    "analyze": "analysis",
    "capture": "source",
    "parse_spec": "spec",
    "read_plan": "plan",
    "run_passes": "pass_manager",
}


if not TYPE_CHECKING:  # a checker knows the names from the imports above, and misspelt ones by their absence

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'graphprune' has no attribute {name!r}")
        return getattr(import_module(f"graphprune.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
