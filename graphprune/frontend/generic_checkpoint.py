"""Generic checkpoints: the graph that one holds is read, and nothing is traced again."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError

from graphprune.errors import SourceError
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

    try:
        config: Any = GraphpruneConfig.from_pretrained(folder, local_files_only=True)
        data = unpack(config.graph)
        stored = {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}
        # Parameters may be stored in a narrower type than the graph computes in.
        tensors = {name: t.to(element_type(data["tensors"][name][0])) for name, t in stored.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise SourceError(f"{folder} holds no readable generic checkpoint: {error}") from error
    graph = from_data(cast("GraphData", data), tensors, Source(data["kind"], str(folder), "", config, None, folder))
    read = Cleanup("read", f"{len(graph.nodes):,} nodes read from the checkpoint, nothing traced")
    return replace(graph, cleanups=(read,))
