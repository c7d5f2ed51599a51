"""Work: everything that a report is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphprune.analysis.groups import Groups
from graphprune.budget.targets import Target
from graphprune.data.calibration import Text
from graphprune.ir.graph import Graph
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import Recipe
from graphprune.vocabulary.cutting import VocabularyCut


@dataclass(frozen=True, eq=False)
class Work:
    """What the writing stages need: what was asked for, both graphs, and the text they are measured on.

    `recipe` is None where a plan was replayed. `metrics` are files of measurements that the passes made. `device` is
    where the passes computed, and where the models are measured.
    """

    options: CompileOptions
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
