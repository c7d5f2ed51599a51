"""The zoo's models, captured once a process; tests of one family share a worker by `@family`."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.rewriting.masked import Masked
from tests.support import oracle, zoo


@dataclass(frozen=True, eq=False)
class Wide:
    """A family's graph in fp64, its analysis, and its masked form."""

    graph: Graph
    analysis: Analysis
    masked: Masked


@functools.cache
def model(name: str) -> Any:
    return zoo.build(name)


@functools.cache
def graph(name: str) -> Graph:
    """The family's model as a graph in fp32."""
    if name == "cnn":
        return capture(model(name), inputs={"image": torch.randn(2, 3, 8, 8)})
    return capture(model(name))


@functools.cache
def analysis(name: str) -> Analysis:
    return analyze_axes(graph(name))


@functools.cache
def wide(name: str) -> Wide:
    return Wide(*oracle.analyses(graph(name)))


def families(names: Iterable[str]) -> list[Any]:
    """Test parameters that keep one family's tests in one worker, so that it is captured once."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]
