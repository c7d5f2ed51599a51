"""Disk: what a result will take there, and whether it has room, asked before the work and before writing."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from graphprune.amounts import show_bytes
from graphprune.budget.backend import Backend
from graphprune.budget.targets import Target, cost_of_graph, file_quantities
from graphprune.errors import ExportError
from graphprune.ir.graph import Graph


def bytes_to_write(graph: Graph, backends: Sequence[Backend], target: Target | None = None) -> int:
    """About what the model files of all backends take, of the graph as it is or when it has been cut to the target."""
    whole = sum(cost_of_graph(each, graph) // each.unit for each in file_quantities(graph, backends).values())
    return whole if target is None else whole * target.most // max(1, target.source)


def require_disk(folder: Path, out: Path, needed: int) -> None:
    """Raise ExportError where the disk of a folder, in which `out` will be, has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ExportError(
            f"cannot write {out}: it takes about {show_bytes(needed)} and its disk has {show_bytes(free)} left; free "
            "some space or give another -o OUT"
        )
