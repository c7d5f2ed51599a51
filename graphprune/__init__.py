"""graphprune: a compiler that turns a large language model into a small one that still works.

    graph = graphprune.capture("demo")
    groups = graphprune.analyze(graph)
    graphprune.export(graph, Path("out"))

Names are loaded when they are first used, so that `import graphprune` takes no time.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

from graphprune.generic.auto_classes import install

if TYPE_CHECKING:
    from graphprune.analysis.analyse import analyze
    from graphprune.analysis.groups import Groups
    from graphprune.artefacts.export import export
    from graphprune.budget.backend import Backend
    from graphprune.compiler.compile import compile_model as compile
    from graphprune.edits.rotation import rotate
    from graphprune.errors import GraphpruneError
    from graphprune.frontend.source import capture
    from graphprune.gates.fold import fold
    from graphprune.gates.gated import Gated, gate
    from graphprune.ir.graph import Graph
    from graphprune.ir.plan import Edit, Plan, read_plan
    from graphprune.offload.opening import open_offloaded
    from graphprune.pipeline.options import CompileOptions
    from graphprune.pipeline.passes import Context, Pass, run_passes
    from graphprune.pipeline.recipes import Recipe, read_recipe
    from graphprune.pipeline.stages import run_recipe
    from graphprune.pruning.interfaces import Allocation, Importance
    from graphprune.rewriting.apply import apply
    from graphprune.rewriting.inheritance import inherit
    from graphprune.running.semi_structured import pack_semi_structured
    from graphprune.spec import parse_spec
    from graphprune.vocabulary.prompt_tokens import with_prompt_tokens

__all__ = [
    "Allocation",
    "Backend",
    "CompileOptions",
    "Context",
    "Edit",
    "Gated",
    "Graph",
    "GraphpruneError",
    "Groups",
    "Importance",
    "Pass",
    "Plan",
    "Recipe",
    "analyze",
    "apply",
    "capture",
    "compile",
    "export",
    "fold",
    "gate",
    "inherit",
    "open_offloaded",
    "pack_semi_structured",
    "parse_spec",
    "read_plan",
    "read_recipe",
    "rotate",
    "run_passes",
    "run_recipe",
    "with_prompt_tokens",
]

_HOMES = {
    "Allocation": "pruning.interfaces:Allocation",
    "Backend": "budget.backend:Backend",
    "CompileOptions": "pipeline.options:CompileOptions",
    "Context": "pipeline.passes:Context",
    "Edit": "ir.plan:Edit",
    "Gated": "gates.gated:Gated",
    "Graph": "ir.graph:Graph",
    "GraphpruneError": "errors:GraphpruneError",
    "Groups": "analysis.groups:Groups",
    "Importance": "pruning.interfaces:Importance",
    "Pass": "pipeline.passes:Pass",
    "Plan": "ir.plan:Plan",
    "Recipe": "pipeline.recipes:Recipe",
    "analyze": "analysis.analyse:analyze",
    "apply": "rewriting.apply:apply",
    "capture": "frontend.source:capture",
    "compile": "compiler.compile:compile_model",
    "export": "artefacts.export:export",
    "fold": "gates.fold:fold",
    "gate": "gates.gated:gate",
    "inherit": "rewriting.inheritance:inherit",
    "open_offloaded": "offload.opening:open_offloaded",
    "pack_semi_structured": "running.semi_structured:pack_semi_structured",
    "parse_spec": "spec:parse_spec",
    "read_plan": "ir.plan:read_plan",
    "read_recipe": "pipeline.recipes:read_recipe",
    "rotate": "edits.rotation:rotate",
    "run_passes": "pipeline.passes:run_passes",
    "run_recipe": "pipeline.stages:run_recipe",
    "with_prompt_tokens": "vocabulary.prompt_tokens:with_prompt_tokens",
}

# onnxruntime 1.32 and onnxruntime-genai keep an id of the device under the user's home and send events, unless this
# says otherwise before the first of them is imported; `disable_telemetry_events()` comes too late. Children inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

install()  # transformers can load a generic checkpoint without trust_remote_code where graphprune is imported


if not TYPE_CHECKING:  # a checker knows the names from the imports above, and misspelt ones by their absence

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'graphprune' has no attribute {name!r}")
        module, _, attribute = _HOMES[name].partition(":")
        return getattr(import_module(f"graphprune.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
