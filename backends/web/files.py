"""Files of a variant: one where all fits in it, else the weights beside it under the names that transformers.js knows.

They are `model_q4.onnx_data`, `model_q4.onnx_data_1`: `getExternalDataChunkNames` of transformers.js 4.3.2.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import TensorProto

PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "q8": "int8", "q4": "int4", "q4f16": "int4"}
_SMALL = 1024  # stays in the model's own file
_ALIGNED = 64


def write_file(made: Path, path: Path, variant: str, file_bytes: int) -> list[Path]:
    """Write a model that stands at `made` with its weights beside it; returns the paths, the model's first."""
    import onnx

    from graphprune.backends.ort.reduced_precision import PRECISION

    model = onnx.load(made)
    kept = [entry for entry in model.metadata_props if entry.key != PRECISION]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    entry = model.metadata_props.add()
    entry.key, entry.value = PRECISION, PRECISIONS[variant]
    large = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) > _SMALL]
    data = [] if sum(len(tensor.raw_data) for tensor in large) <= file_bytes else move_out(large, path, file_bytes)
    path.write_bytes(model.SerializeToString())
    return [path, *data]


def move_out(tensors: "list[TensorProto]", path: Path, file_bytes: int) -> list[Path]:
    """Write the tensors' bytes to files of at most so many, and say in each where they are.

    A tensor that is larger by itself has a file of its own.
    """
    from onnx import TensorProto

    written = list[Path]()
    for index, part in enumerate(chunks(tensors, file_bytes)):
        data = path.with_name(f"{path.name}_data" + (f"_{index}" if index else ""))
        with data.open("wb") as file:
            for tensor in part:
                file.write(b"\0" * (-file.tell() % _ALIGNED))
                places = (("location", data.name), ("offset", str(file.tell())), ("length", str(len(tensor.raw_data))))
                file.write(tensor.raw_data)
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in places:
                    entry = tensor.external_data.add()
                    entry.key, entry.value = key, value
        written.append(data)
    return written


def chunks(tensors: "list[TensorProto]", file_bytes: int) -> "Iterator[list[TensorProto]]":
    """The tensors in order, in parts that fit into a file."""
    part, size = list["TensorProto"](), 0
    for tensor in tensors:
        more = len(tensor.raw_data) + _ALIGNED
        if part and size + more > file_bytes:
            yield part
            part, size = [], 0
        part.append(tensor)
        size += more
    if part:
        yield part
