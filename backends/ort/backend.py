"""The onnxruntime backend: a decoder with onnxruntime's own operators, in full or reduced precision."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, final

from graphprune.backends.onnx.backend import Onnx
from graphprune.bounds import require_limits
from graphprune.budget.backend import Backend
from graphprune.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir

    from graphprune.backends.runtime.runner import OnnxModel
    from graphprune.budget.quantities import FileBytes, Precision
    from graphprune.ir.graph import Graph


@final
@dataclass(frozen=True)
class Ort(Backend):
    """Write `onnx-ort/`, or `onnx-fp16/`, `onnx-int8/`, `onnx-int4/`: the same contract, with com.microsoft operators.

    Attention over a cache becomes GroupQueryAttention, rotations RotaryEmbedding, a sum and its RMS norm one call; what
    has no such operator is written as in the portable model. It needs onnxruntime. `precision` int4 packs the weights
    of linear layers in blocks of `block` with a scale each (and an offset unless `symmetric`); `embeddings` packs a
    table of embeddings too, and the head that is tied to it, as one tensor. int8 computes linear layers with weights
    and activations in 8 bits. fp16 stores and computes in half precision, with logits in float32.
    """

    name: ClassVar[str] = "ort"
    files: ClassVar[tuple[str, ...]] = Onnx.files
    runtime: ClassVar[str] = Onnx.runtime
    precision: Literal["fp32", "fp16", "int8", "int4"] = "fp32"
    block: Literal[16, 32, 64, 128, 256] = 32
    symmetric: bool = False
    embeddings: bool = False
    folder: str = ""

    def __post_init__(self) -> None:
        require_limits(self, self.name)

    @property
    def place(self) -> str:
        return self.folder or ("onnx-ort" if self.precision == "fp32" else f"onnx-{self.precision}")

    def quantity(self, graph: "Graph") -> "FileBytes":
        from graphprune.budget.quantities import FileBytes

        kept: Precision = "half" if self.precision == "fp16" else self.precision
        return FileBytes(kept, self.block, self.symmetric, self.embeddings, place=self.label)

    def export(self, graph: "Graph", folder: Path) -> list[Path]:
        """Write the files and return their paths, model.onnx first. Raises ExportError."""
        from graphprune.backends.onnx.files import build_model, write_companions
        from graphprune.backends.onnx.types import widen_types
        from graphprune.backends.ort.fusions import find_fusions
        from graphprune.ir.placement import on_cpu

        graph, target = on_cpu(graph), folder / self.place
        wide = widen_types(graph)
        model = build_model(wide, 20, find_fusions(wide))
        shared = shares_cache(model)
        if shared:
            model.metadata_props["graphprune.cache"] = "shared"
        try:
            target.mkdir(parents=True, exist_ok=True)
            return [*self.write(model, target), *write_companions(graph, target, shared)]
        except OSError as error:
            raise ExportError(f"cannot write {error.filename or target}: {error.strerror or error}") from error

    def write(self, model: "onnx_ir.Model", target: Path) -> list[Path]:
        from graphprune.backends.onnx.files import write_model
        from graphprune.backends.ort.reduced_precision import PRECISION

        model.metadata_props[PRECISION] = self.precision
        if self.precision == "fp32":
            return write_model(model, target)
        with tempfile.TemporaryDirectory(prefix=".full-", dir=target) as full:
            return self.reduce(write_model(model, Path(full))[0], target, self.embeddings)

    def reduce(self, full: Path, target: Path, embeddings: bool) -> list[Path]:
        """Write a float32 model again in the precision that was asked for."""
        from graphprune.backends.ort.reduced_precision import Packing, reduce_precision

        return reduce_precision(full, target, self.precision, Packing(self.block, self.symmetric, embeddings))

    @classmethod
    def opens(cls, folder: Path) -> bool:
        return Onnx.opens(folder)

    @classmethod
    def open(cls, folder: Path, provider: str = "auto", threads: int | None = None) -> "OnnxModel":
        return Onnx.open(folder, provider, threads)

    @classmethod
    def provider(cls, asked: str) -> str:
        return Onnx.provider(asked)

    def open_layers(self, folder: Path, narrow: int, wide: int, count: int) -> "OnnxModel":
        from graphprune.backends.onnx.layers import write_layers

        if self.precision in ("fp32", "fp16"):
            return Onnx().open_layers(folder, narrow, wide, count)
        write_layers(folder / "full.onnx", narrow, wide, count)
        self.reduce(folder / "full.onnx", folder, embeddings=False)
        return self.open(folder, "cpu")


def shares_cache(model: "onnx_ir.Model") -> bool:
    """Say whether every cache input is read by GroupQueryAttention, which can write the present behind the past."""
    caches = {value for value in model.graph.inputs if str(value.name).startswith("past_key_values.")}
    readers = {use.node.op_type for cache in caches for use in cache.uses()}
    return bool(caches) and readers == {"GroupQueryAttention"}
