"""ONNX models in fewer bits, by the quantizers of onnxruntime; a table of embeddings is packed here."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from graphprune.errors import ExportError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

PRECISION = "graphprune.precision"  # the key of a model's metadata
_THRESHOLD = 1024


@final
@dataclass(frozen=True)
class Packing:
    """How int4 packs: blocks of so many weights, with an offset unless `symmetric`, tables of `embeddings` too."""

    block: int
    symmetric: bool
    embeddings: bool


def reduce_precision(full: Path, target: Path, precision: str, packing: Packing) -> list[Path]:
    """Write the float32 model `full` to `target` as fp16, int8 or int4; returns the paths, model.onnx first.

    Raises ExportError where the quantizer refuses the model.
    """
    import onnx

    writers: dict[str, Callable[[], ModelProto]] = {
        "fp16": lambda: to_half(full),
        "int8": lambda: to_int8(full),
        "int4": lambda: to_int4(full, packing),
    }
    with quiet():
        try:
            model = writers[precision]()
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise ExportError(f"onnxruntime cannot write this model as {precision}: {error}") from error
    path, data = target / "model.onnx", target / "model.onnx.data"
    onnx.save(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=data.name,
        size_threshold=_THRESHOLD,
    )
    data.touch()
    data.chmod(path.stat().st_mode)
    return [path, data]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the quantizers' own log and warnings, which speak of every node and of calls from inside them."""
    known = {name: logging.getLogger(name).level for name in ("", "onnxruntime.quantization")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for name in known:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in known.items():
                logging.getLogger(name).setLevel(level)


def to_half(full: Path) -> "ModelProto":
    """Half precision inside and in the cache; logits stay in float32, and so do sums of squares, which overflow."""
    import onnx
    import onnx_ir
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    model = onnx.load(full)
    blocked = [*DEFAULT_OP_BLOCK_LIST, "Pow", "ReduceMean", "Sqrt", "Div", "Cos", "Sin"]
    made = convert_float_to_float16(
        model, keep_io_types=["logits"], op_block_list=blocked, disable_shape_infer=True, force_fp16_initializers=True
    )
    drop_repeated_casts(made.graph)
    sorted_ = onnx_ir.serde.deserialize_model(made)
    sorted_.graph.sort()  # the casts are put at the end
    return onnx_ir.serde.serialize_model(sorted_)


def drop_repeated_casts(graph: "GraphProto") -> None:
    """Leave out what stands there twice, and its type: onnxruntime before 1.32 casts a value once for each reader."""
    made, repeated = set[str](), []
    for index, node in enumerate(graph.node):
        if node.op_type == "Cast" and made.issuperset(node.output):
            repeated.append(index)
        made.update(node.output)
    for index in reversed(repeated):
        del graph.node[index]
    typed = {info.name: info for info in reversed(graph.value_info)}
    if len(typed) < len(graph.value_info):
        kept = list(reversed(typed.values()))
        del graph.value_info[:]
        graph.value_info.extend(kept)


def to_int8(full: Path) -> "ModelProto":
    """Linear layers with weights in 8 bits, one scale a column, and activations quantized as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    made = full.with_name("int8.onnx")
    quantize_dynamic(
        full,
        made,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
        extra_options={"MatMulConstBOnly": True},
    )
    return onnx.load(made)


def to_int4(full: Path, packing: Packing) -> "ModelProto":
    """Linear layers with weights in 4 bits."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = onnx.load(full)
    ONNXModel(model).replace_gemm_with_matmul()  # the quantizer passes over Gemm, which linear layers of GPT-2 are
    if packing.embeddings:
        pack_embeddings(model, packing)
    quantizer = MatMulNBitsQuantizer(model, block_size=packing.block, is_symmetric=packing.symmetric, accuracy_level=4)
    quantizer.process()
    made: ModelProto = quantizer.model.model
    return made


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


def make(
    kind: str, inputs: list[str], outputs: list[str], name: str, domain: str = "", **attributes: int
) -> "NodeProto":
    from onnx import helper

    return helper.make_node(kind, inputs, outputs, name, None, domain, None, **attributes)


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
