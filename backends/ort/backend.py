"""The onnxruntime backend: a decoder with onnxruntime's own operators, in full or reduced precision."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self, final

from graphprune.backends.onnx.backend import Onnx
from graphprune.bounds import require_limits
from graphprune.budget.backend import Backend
from graphprune.errors import ExportError, UsageError

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
    table of embeddings too, and the head that is tied to it, as one tensor. Weights that were tuned in 4 bits are
    packed as they were tuned; with `fractions` their offsets, which are in float32, count for the file's size. int8
    computes linear layers with weights and activations in 8 bits. fp16 stores and computes in half precision, with
    logits in float32.
    """

    name: ClassVar[str] = "ort"
    files: ClassVar[tuple[str, ...]] = Onnx.files
    runtime: ClassVar[str] = Onnx.runtime
    precision: Literal["fp32", "fp16", "int8", "int4"] = "fp32"
    block: Literal[16, 32, 64, 128, 256] = 32
    symmetric: bool = False
    embeddings: bool = False
    fractions: bool = False
    folder: str = ""

    def __post_init__(self) -> None:
        require_limits(self, self.name)

    @property
    def place(self) -> str:
        return self.folder or ("onnx-ort" if self.precision == "fp32" else f"onnx-{self.precision}")

    def quantity(self, graph: "Graph") -> "FileBytes":
        from graphprune.budget.quantities import FileBytes

        kept: Precision = "half" if self.precision == "fp16" else self.precision
        wide = self.fractions and self.precision == "int4"
        return FileBytes(kept, self.block, self.symmetric, self.embeddings, place=self.label, fractions=wide)

    def tuned(self, block: int) -> Self:
        if self.precision == "int8":
            raise UsageError(
                f"{self.place} packs in 8 bits what is tuned in 4, in blocks of {block}: write "
                f"ort{{precision=int4,block={block}}}, or leave lora_block out"
            )
        if self.precision != "int4":
            return self
        wrong = "symmetric=true" if self.symmetric else "embeddings=true" if self.embeddings else None
        if wrong is not None:
            why = (
                "has no offsets, which adapters are merged into"
                if self.symmetric
                else "packs tables, which are not tuned"
            )
            raise UsageError(
                f"{self.place} with {wrong} {why}: leave it out of ort{{..}}, or lora_block out of recover"
            )
        if block % self.block:
            raise UsageError(
                f"{self.place} has blocks of {self.block} and weights are tuned in blocks of {block}: write "
                f"ort{{precision=int4,block={block}}}, or set recover.lora_block={self.block}"
            )
        return replace(self, fractions=True)

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
            return [*self.write(model, target, graph), *write_companions(graph, target, shared)]
        except OSError as error:
            raise ExportError(f"cannot write {error.filename or target}: {error.strerror or error}") from error

    def write(self, model: "onnx_ir.Model", target: Path, graph: "Graph") -> list[Path]:
        from graphprune.backends.onnx.files import write_model
        from graphprune.backends.ort.grids import find_grids
        from graphprune.backends.ort.packing import Packing
        from graphprune.backends.ort.reduced_precision import PRECISION, reduce_precision

        model.metadata_props[PRECISION] = self.precision
        if self.precision == "fp32":
            return write_model(model, target)
        with tempfile.TemporaryDirectory(prefix=".full-", dir=target) as full:
            grids = find_grids(graph, self.block) if self.precision != "fp16" else {}
            if grids and self.precision == "int8":
                raise ExportError(f"{next(iter(grids))} was tuned in 4 bits: write ort{{precision=int4}}, or fp16")
            packing = Packing(self.block, self.symmetric, self.embeddings, grids)
            return reduce_precision(write_model(model, Path(full))[0], target, self.precision, packing)

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
        from graphprune.backends.ort.packing import Packing
        from graphprune.backends.ort.reduced_precision import reduce_precision

        if self.precision in ("fp32", "fp16"):
            return Onnx().open_layers(folder, narrow, wide, count)
        write_layers(folder / "full.onnx", narrow, wide, count)
        packing = Packing(self.block, self.symmetric, embeddings=False)
        reduce_precision(folder / "full.onnx", folder, self.precision, packing)
        return self.open(folder, "cpu")


def shares_cache(model: "onnx_ir.Model") -> bool:
    """Say whether every cache input is read by GroupQueryAttention, which can write the present behind the past."""
    caches = {value for value in model.graph.inputs if str(value.name).startswith("past_key_values.")}
    readers = {use.node.op_type for cache in caches for use in cache.uses()}
    return bool(caches) and readers == {"GroupQueryAttention"}
