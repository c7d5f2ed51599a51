"""Export: a graph as checked artefacts, all of them or none."""

from collections.abc import Sequence
from pathlib import Path

from graphprune import parity
from graphprune.artefact_files import load_backends
from graphprune.ir.graph import Graph
from graphprune.output import staging
from graphprune.running import comparison


def export(
    graph: Graph, out: Path, backends: Sequence[str] = ("huggingface", "onnx"), overwrite: bool = False
) -> tuple[comparison.Check, ...]:
    """Write a graph with each backend (a spec), load every artefact in a fresh process, and compare it.

    `out` appears complete or not at all. Raises UsageError where it exists without `overwrite`, ExportError where
    a backend cannot write the graph, ParityError where an artefact does not compute the same.
    """
    writers = load_backends(backends)
    with staging(out, overwrite) as folder:
        for writer in writers:
            writer.export(graph, folder)
        parity.save_reference(graph, folder)
        checks = parity.check(folder)
        comparison.require(checks)
    return tuple(checks)
