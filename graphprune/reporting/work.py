"""Work: everything that a report is made from."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphprune.analysis.groups import Groups
from graphprune.budget.targets import Target
from graphprune.data.calibration import Text
from graphprune.encoders.examples import Examples
from graphprune.ir.graph import Graph
from graphprune.pipeline.options import CompileOptions, Part
from graphprune.pipeline.recipes import Recipe
from graphprune.vocabulary.cutting import VocabularyCut


@dataclass(frozen=True)
class Asked:
    """What was asked for, as report and card say it: the option of the target and its value, the text, the seed.

    `vocabulary` is a number of tokens that was asked for beside the target; `field` holds the text in records.
    """

    model: str
    target: tuple[str, str]
    vocabulary: str | None = None
    data: str = CompileOptions.data
    held_out: str | None = None
    seed: int = CompileOptions.seed
    part: Part = CompileOptions.part
    field: str = CompileOptions.field


@dataclass(frozen=True, eq=False)
class Work:
    """What the writing stages need: what was asked for, both graphs, and the text, or examples, they are measured on.

    `recipe` is None where a plan was replayed, `solved` says that it had weights of its own. `metrics` are files of
    measurements that the passes made. `device` is where the passes computed, and where the models are measured;
    `device_notes` say what the user should know of it. `began` is when the command began, as time.time() says it, and
    earlier by what interrupted parts of it took. `memory` is what there is to check in; `run` the run file that OUT
    gets, None where a plan was replayed.
    """

    asked: Asked
    recipe: Recipe | None
    source: Graph
    groups: Groups
    graph: Graph
    text: Text | None
    metrics: Sequence[Path] = ()
    target: Target | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: VocabularyCut | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    device_notes: tuple[str, ...] = ()
    began: float = field(default_factory=time.time)
    solved: bool = False
    memory: str | None = None
    examples: Examples | None = None
    run: str | None = None
