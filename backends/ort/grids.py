"""Weights that lie on a grid of 4 bits, packed as they are: the file holds the very codes, scales and offsets."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from graphprune.backends.ort.packing import make
from graphprune.errors import ExportError
from graphprune.ir.graph import Graph, get_tensor
from graphprune.weights.grids import GRID, SCALE, Grid, find_grid
from graphprune.weights.stored import real

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto

_OUTPUTS_FIRST, _INPUTS_FIRST = torch.ops.aten.linear.default, torch.ops.aten.addmm.default


def find_grids(graph: Graph, block: int) -> dict[str, Grid]:
    """The grids of a graph's linear weights by name, in blocks of so many inputs.

    Raises ExportError where a weight lies on one of other blocks, which these cannot hold. One that was changed since
    it was put on its grid is left out.
    """
    found: dict[str, Grid] = {}
    for name in graph.companions.get(SCALE, {}):
        transposed = is_transposed(graph, name)
        if transposed is None:
            continue
        tensors = [real(get_tensor(graph.module, name)), *(graph.companions[kind][name] for kind in GRID)]
        weight, *beside = (t.detach().cpu().t() if transposed else t.detach().cpu() for t in tensors)
        grid = find_grid(weight, beside, block)
        if grid is None and (finer := find_finer(weight, beside, block)):
            raise ExportError(
                f"{name} was tuned in blocks of {finer} inputs: write ort{{precision=int4,block={finer}}}"
            )
        if grid is not None:
            found[name] = grid
    return found


def find_finer(weight: torch.Tensor, beside: list[torch.Tensor], block: int) -> int | None:
    """A smaller size of blocks in which a weight lies on its grid."""
    return next((each for each in (128, 64, 32, 16) if each < block and find_grid(weight, beside, each)), None)


def is_transposed(graph: Graph, name: str) -> bool | None:
    """Whether a linear weight is [inputs, outputs]; None where it has other readers than linear calls."""
    weight = get_tensor(graph.module, name)
    readers = {
        user.target
        for node in graph.module.graph.find_nodes(op="get_attr")
        if get_tensor(graph.module, str(node.target)) is weight
        for user in node.users
    }
    return {frozenset({_OUTPUTS_FIRST}): False, frozenset({_INPUTS_FIRST}): True}.get(frozenset(readers))


def pack_grids(model: "ModelProto", grids: Mapping[str, Grid]) -> None:
    """Multiply by the grids, in place of the weights that lie on them; offsets are in 4 bits where all are codes."""
    graph = model.graph
    nodes = list(graph.node)
    packed: dict[str, list[str]] = {}
    del graph.node[:]
    for node in nodes:
        name = node.input[1] if node.op_type == "MatMul" else ""
        if name not in grids:
            graph.node.append(node)
            continue
        if name not in packed:
            packed[name] = add_parts(graph, name, grids[name])
        outputs, inputs = grids[name].codes.shape
        sizes = {"K": inputs, "N": outputs, "bits": 4, "block_size": grids[name].block, "accuracy_level": 4}
        parts = [node.input[0], *packed[name]]
        graph.node.append(make("MatMulNBits", parts, list(node.output), node.name, "com.microsoft", **sizes))
    read = {value for node in graph.node for value in node.input}
    for tensor in [t for t in graph.initializer if t.name in packed and t.name not in read]:
        graph.initializer.remove(tensor)
    if packed and not any(entry.domain == "com.microsoft" for entry in model.opset_import):
        model.opset_import.add(domain="com.microsoft", version=1)


def add_parts(graph: "GraphProto", name: str, grid: Grid) -> list[str]:
    """The codes, scales and offsets as initialisers, and their names as the quantizer of onnxruntime has them."""
    from onnx import numpy_helper

    arrays = {"Q4": pack_codes(grid), "scales": grid.scale.float().numpy(), "zero_points": pack_offsets(grid)}
    names = {part: f"{name}_{part}" for part in arrays}
    graph.initializer.extend(numpy_helper.from_array(array, names[part]) for part, array in arrays.items())
    return list(names.values())


def pack_codes(grid: Grid) -> "NDArray[np.uint8]":
    """Codes by twos in a byte, the first in its lower half: [outputs, blocks, block / 2]."""
    import numpy as np

    outputs, inputs = grid.codes.shape
    padded = np.pad(grid.codes.numpy(), ((0, 0), (0, -inputs % grid.block)))
    return by_twos(padded).reshape(outputs, -1, grid.block // 2)


def pack_offsets(grid: Grid) -> "NDArray[np.uint8] | NDArray[np.float32]":
    """Offsets by twos in a byte where all are codes, else as they are: the operator takes the type of the scales."""
    import numpy as np

    if not grid.is_whole():
        return grid.offset.float().numpy()
    codes = grid.offset.numpy().astype(np.uint8)
    return by_twos(np.pad(codes, ((0, 0), (0, codes.shape[1] % 2))))


def by_twos(codes: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
    import numpy as np

    return (codes[:, 0::2] | (codes[:, 1::2] << 4)).astype(np.uint8)
