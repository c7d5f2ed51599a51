"""What a report is made from, for the tiny Llama: asked for in one way, cut by hand, with no text read."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Groups
from graphprune.compiler.request import asked_of
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import read_recipe
from graphprune.reporting.work import Work
from graphprune.rewriting.apply import apply
from tests.support.tiny_llama import tiny_graph

CHANNELS = "model.layers.1.mlp.gate_proj.weight:0"
CUT = Plan({CHANNELS: tuple(range(0, 24, 3))}, ("model.layers.0.self_attn",))


@functools.cache
def tiny_pair() -> tuple[Graph, Groups, Graph]:
    """The tiny Llama under a name, as one from a folder has it, what can be cut of it, and the cut."""
    named = replace(tiny_graph().source, name="/models/tiny", file_hashes={"config.json": "00ff"})
    source = replace(tiny_graph(), source=named)
    return source, analyze(source), apply(source, CUT)


def tiny_work(changes: Mapping[str, Any] | None = None, **parts: Any) -> Work:
    """Work with `changes` to its options and other `parts`."""
    source, groups, graph = tiny_pair()
    plain = CompileOptions("/models/tiny", "60%", Path("out"), data="my text.txt", seed=3)
    whole = Work(asked_of(replace(plain, **(changes or {}))), read_recipe("taylor"), source, groups, graph, None)
    return replace(whole, **parts)
