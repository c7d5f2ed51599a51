"""Generic checkpoints: the graph that one holds is read, and nothing is traced again."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from graphprune.errors import SourceError, first_line, foreign
from graphprune.ir.cleanups import Cleanup
from graphprune.ir.graph import Graph, Source
from graphprune.ir.serial import GraphData, from_data


def read_generic(folder: Path) -> Graph:
    """The graph of a checkpoint in the generic form, with its weights, as it was exported; it can be pruned again.

    Raises SourceError where the folder holds no such checkpoint or a damaged one.
    """
    from safetensors.torch import load_file

    from graphprune.generic.modeling_graphprune import GraphpruneConfig
    from graphprune.generic.program_graphprune import element_type, unpack

    with foreign(lambda error: SourceError(unreadable(folder, error))):
        config: Any = GraphpruneConfig.from_pretrained(folder, local_files_only=True)
        data = unpack(config.graph)
        stored = {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}
        # Parameters may be stored in a narrower type than the graph computes in.
        tensors = {name: t.to(element_type(data["tensors"][name][0])) for name, t in stored.items()}
        source = Source(data["kind"], str(folder), "", config, None, folder)
        graph = from_data(cast("GraphData", data), tensors, source)
    read = Cleanup("read", f"{len(graph.nodes):,} nodes read from the checkpoint, nothing traced")
    return replace(graph, cleanups=(read,))


def unreadable(folder: Path, error: Exception) -> str:
    """What is said of a damaged checkpoint, whatever its reading ran into."""
    return f"{folder} holds no readable generic checkpoint: {first_line(error)[:300]}; compile it again"
