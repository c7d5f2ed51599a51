"""ONNX models in fewer bits, by the quantizers of onnxruntime."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from graphprune.backends.ort.embeddings import pack_embeddings
from graphprune.backends.ort.packing import Packing
from graphprune.errors import ExportError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

PRECISION = "graphprune.precision"  # the key of a model's metadata
_THRESHOLD = 1024


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

    from graphprune.backends.ort.grids import pack_grids

    model = onnx.load(full)
    ONNXModel(model).replace_gemm_with_matmul()  # the quantizer passes over Gemm, which linear layers of GPT-2 are
    if packing.grids:
        pack_grids(model, packing.grids)
    if packing.embeddings:
        pack_embeddings(model, packing)
    quantizer = MatMulNBitsQuantizer(model, block_size=packing.block, is_symmetric=packing.symmetric, accuracy_level=4)
    quantizer.process()
    made: ModelProto = quantizer.model.model
    return made
