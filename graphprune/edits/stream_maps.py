"""Stream maps: an identity matrix on the skip operand of a residual sum, which parts the stream before from that after.

Each segment of the stream is then an axis of its own, which can be rotated and cut by itself (arXiv 2401.15024).
"""

from collections.abc import Sequence

import torch
from torch import fx

from graphprune.analysis.branches import STREAM_MAP, find_branches, is_stream_map, sum_terms
from graphprune.analysis.groups import Branch
from graphprune.edits.probes import follow
from graphprune.edits.tensors import require_free, with_all
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.types import tensor_type


def map_streams(graph: Graph, ids: Sequence[str]) -> Graph:
    """Return the graph with an identity matrix [n, n] on what each of these residual branches is added to.

    Branches that are added together have one, whichever is named. The matrix is named after the branch:
    `model.layers.0.mlp.stream_map.weight`. Raises PlanError for what is no branch, and for a sum that has a map.
    """
    branches = {branch.id: branch for branch in find_branches(graph)}
    fork, tensors = graph.fork(), dict(graph.tensors())
    nodes = {node.name: node for node in fork.nodes}
    for id in ids:
        branch = branches.get(id)
        if branch is None:
            raise PlanError(f"{id} is no residual branch of this model, so that its stream cannot be mapped")
        skip = nodes[branch.skip]
        readers = sums_of(nodes[branch.add], skip)
        size, name = tensor_type(skip).shape[-1], map_name(branch)
        if not isinstance(size, int) or not readers or len(tensor_type(skip).shape) > 3:
            raise PlanError(f"the stream that {id} adds to has no last dimension of channels that a matrix could map")
        if is_stream_map(skip) or any(map(is_stream_map, readers[0].all_input_nodes)):
            raise PlanError(f"the stream that {id} adds to is mapped already")
        require_free(tensors, name)
        eye = torch.eye(size, dtype=tensor_type(skip).dtype, device=next(iter(tensors.values())).device)
        tensors[name] = torch.nn.Parameter(eye)
        made = follow(fork.module.graph, skip, name, eye)
        for reader in readers:
            reader.replace_input_with(skip, made)
    return with_all(fork, tensors)


def map_name(branch: Branch) -> str:
    """The name of the matrix beside the weights of a branch."""
    return f"{branch.id.replace('#', '_')}.{STREAM_MAP}"


def sums_of(add: fx.Node, skip: fx.Node) -> list[fx.Node]:
    """The additions of a sum of several terms that read its skip operand."""
    found, pending = list[fx.Node](), [add]
    while pending:
        node = pending.pop()
        found += [node] if skip in node.all_input_nodes else []
        pending += [each for each in node.all_input_nodes if each is not skip and sum_terms(each)]
    return found
