"""Tables of embeddings in 4 bits, and heads that are tied to them, which onnxruntime's quantizer leaves wide."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphprune.backends.ort.packing import Packing, make

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


def pack_embeddings(model: "ModelProto", packing: Packing) -> None:
    """Read tables of embeddings from 4 bits, and a head that is tied to one from the same tensor.

    A table [vocabulary, width] is packed row by row in blocks along its width: as MatMulNBits has the head's weight
    and GatherBlockQuantized its data, but for their shape.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    tables = [node.input[0] for node in graph.node if node.op_type == "Gather" and node.input[0] in weights]
    for name in dict.fromkeys(tables):
        if len(weights[name].dims) == 2:
            pack_table(graph, weights[name], packing)
    if not any(entry.domain == "com.microsoft" for entry in model.opset_import):
        model.opset_import.add(domain="com.microsoft", version=1)


def pack_table(graph: "GraphProto", tensor: "TensorProto", packing: Packing) -> None:
    import numpy as np
    from onnx import numpy_helper
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, DefaultWeightOnlyQuantizer

    table = numpy_helper.to_array(tensor)
    rows, width = table.shape
    config = DefaultWeightOnlyQuantConfig(block_size=packing.block, is_symmetric=packing.symmetric)
    packed, scales, zeros = DefaultWeightOnlyQuantizer(config).qbits_block_quant(np.ascontiguousarray(table.T))
    parts = {"packed": packed, "scales": scales} | ({} if packing.symmetric else {"zeros": zeros})
    names = {part: f"{tensor.name}.{part}" for part in parts}
    graph.initializer.extend(numpy_helper.from_array(array, names[part]) for part, array in parts.items())
    flat = f"{tensor.name}.rows"
    graph.initializer.append(numpy_helper.from_array(np.array([rows, -1]), f"{flat}.shape"))
    sizes = {"block": packing.block, "width": width, "padded": packed.shape[1] * packing.block, "rows": rows}
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.append(make("Reshape", [names["packed"], f"{flat}.shape"], [flat], flat))
    heads = {node.output[0]: node for node in nodes if node.op_type == "Transpose" and node.input[0] == tensor.name}
    for node in nodes:
        if node.op_type == "Gather" and node.input[0] == tensor.name:
            graph.node.extend(gather(graph, node, flat, names, sizes))
        elif node.op_type == "MatMul" and node.input[1] in heads:
            graph.node.append(head(node, names, sizes))
        else:
            graph.node.append(node)
    drop_unread(graph, {tensor.name, *heads})


def gather(
    graph: "GraphProto", node: "NodeProto", flat: str, names: dict[str, str], sizes: dict[str, int]
) -> Iterator["NodeProto"]:
    """The rows of a packed table; what pads the last block is cut off."""
    import numpy as np
    from onnx import numpy_helper

    whole = sizes["width"] == sizes["padded"]
    result = node.output[0] if whole else f"{node.output[0]}.padded"
    inputs = [flat, node.input[1], names["scales"], *([names["zeros"]] if "zeros" in names else [])]
    yield make(
        "GatherBlockQuantized",
        inputs,
        [result],
        node.name,
        "com.microsoft",
        bits=4,
        block_size=sizes["block"],
        gather_axis=0,
        quantize_axis=1,
    )
    if not whole:
        bounds = {"starts": [0], "ends": [sizes["width"]], "axes": [-1]}
        for part, values in bounds.items():
            graph.initializer.append(numpy_helper.from_array(np.array(values), f"{result}.{part}"))
        yield make("Slice", [result, *(f"{result}.{part}" for part in bounds)], [node.output[0]], f"{result}.cut")


def head(node: "NodeProto", names: dict[str, str], sizes: dict[str, int]) -> "NodeProto":
    """The product with a packed table, transposed."""
    inputs = [node.input[0], names["packed"], names["scales"], *([names["zeros"]] if "zeros" in names else [])]
    return make(
        "MatMulNBits",
        inputs,
        list(node.output),
        node.name,
        "com.microsoft",
        K=sizes["width"],
        N=sizes["rows"],
        bits=4,
        block_size=sizes["block"],
        accuracy_level=4,
    )


def drop_unread(graph: "GraphProto", names: set[str]) -> None:
    """Remove the transposes and tables that nothing reads any more."""
    for _ in range(2):
        read = {value for node in graph.node for value in node.input} | {value.name for value in graph.output}
        for node in [n for n in graph.node if n.op_type == "Transpose" and n.output[0] in names - read]:
            graph.node.remove(node)
    read = {value for node in graph.node for value in node.input}
    for tensor in [t for t in graph.initializer if t.name in names - read]:
        graph.initializer.remove(tensor)
