"""A GGUF file: the sizes, the tokenizer and the packed tensors of a decoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphprune.backends.gguf.shapes import Shape
from graphprune.backends.gguf.tokens import add_tokenizer
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.weights.stored import real

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

_ROW = 32  # weights of a q8_0 block


def write_file(path: Path, graph: Graph, shape: Shape, precision: str, pre: str) -> None:
    """All tensors and what a reader needs to run them."""
    require_gguf()
    import gguf

    writer = gguf.GGUFWriter(path, shape.architecture)
    add_sizes(writer, shape)
    writer.add_name(graph.source.title or "model")
    writer.add_file_type(file_type(precision))
    if graph.source.files is not None:
        add_tokenizer(writer, graph.source.files, shape.vocabulary, pre)
    for name, tensor in shape.tensors.items():
        values, type_ = pack(to_numpy(tensor), precision if tensor.ndim > 1 else "f32")
        writer.add_tensor(name, values, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def require_gguf() -> None:
    """Raise UsageError where the gguf package is not installed."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UsageError("the backend gguf needs the gguf package; pip install 'graphprune[gguf]'") from error


def add_sizes(writer: "GGUFWriter", shape: Shape) -> None:
    """Scalars where layers are equal, else lists with an entry a layer."""
    writer.add_block_count(len(shape.heads))
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_head_count(one_or_all(shape.heads))
    writer.add_head_count_kv(one_or_all(shape.key_heads))
    writer.add_feed_forward_length(one_or_all(shape.channels))
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    if shape.linear_scaling is not None:
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(shape.linear_scaling)


def one_or_all(values: Sequence[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else list(values)


def file_type(precision: str) -> "LlamaFileType":
    from gguf import LlamaFileType

    return LlamaFileType[f"ALL_{precision.upper()}" if precision == "f32" else f"MOSTLY_{precision.upper()}"]


def pack(values: NDArray[numpy.float32], precision: str) -> "tuple[NDArray[numpy.generic], GGMLQuantizationType]":
    """The values as the file holds them, and their type."""
    if precision == "q8_0" and values.shape[-1] % _ROW:
        precision = "f16"
    if precision == "f16" and numpy.abs(values).max(initial=0) > numpy.finfo(numpy.float16).max:
        precision = "f32"
    import gguf

    kind = gguf.GGMLQuantizationType[precision.upper()]
    return gguf.quants.quantize(values, kind), kind


def to_numpy(tensor: Tensor) -> NDArray[numpy.float32]:
    return numpy.ascontiguousarray(real(tensor).detach().to("cpu", torch.float32).numpy())
