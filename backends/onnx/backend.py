"""The ONNX backend: a graph as a self-contained folder that onnxruntime and onnxruntime-genai open."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from graphprune.budget.backend import Backend
from graphprune.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir

    from graphprune.backends.runtime.runner import OnnxModel
    from graphprune.budget.quantities import FileBytes
    from graphprune.ir.graph import Graph


@final
@dataclass(frozen=True)
class Onnx(Backend):
    """Write `onnx/model.onnx` and `onnx/model.onnx.data` in portable ai.onnx, and what runtimes read beside them.

    These are genai_config.json for a decoder and the source's configuration and tokenizer files. One graph serves
    prefill and decoding: it takes and returns the cache under the graph's contract names; batch, sequence and past are
    symbolic, head counts and head sizes integers. Half-precision graphs are written in float32 unless `keep_half` is
    set. Initialisers carry the source model's parameter names; the weight of a linear layer is written as MatMul
    reads it, [in, out]. `outputs` names some of them, to write a part that takes what these need: one tower of a model
    of images and texts, in a `folder` of its own.
    """

    name: ClassVar[str] = "onnx"
    files: ClassVar[tuple[str, ...]] = ("model.onnx*",)
    runtime: ClassVar[str] = "onnxruntime"
    opset: int = 20
    keep_half: bool = False
    folder: str = "onnx"
    outputs: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return self.folder

    def quantity(self, graph: "Graph") -> "FileBytes":
        from graphprune.budget.quantities import FileBytes

        half = self.keep_half and any(p.dtype.itemsize == 2 for p in graph.parameters().values())
        return FileBytes("half" if half else "fp32", place=self.label)

    def export(self, graph: "Graph", folder: Path) -> list[Path]:
        """Write the files and return their paths, model.onnx first.

        Raises ExportError naming the node that has no translation, the tensor without weights, or the file.
        """
        from graphprune.backends.onnx.files import write_companions, write_model
        from graphprune.backends.onnx.outputs import giving
        from graphprune.ir.placement import on_cpu

        graph, target = on_cpu(giving(graph, self.outputs)), folder / self.place
        model = self.build(graph)
        try:
            target.mkdir(parents=True, exist_ok=True)
            return [*write_model(model, target), *write_companions(graph, target)]
        except OSError as error:
            raise ExportError(f"cannot write {error.filename or target}: {error.strerror or error}") from error

    def build(self, graph: "Graph") -> "onnx_ir.Model":
        """Translate the graph; the result refers to the graph's tensors and has written nothing."""
        from graphprune.backends.onnx.files import build_model
        from graphprune.backends.onnx.types import widen_types

        return build_model(graph if self.keep_half else widen_types(graph), self.opset)

    @classmethod
    def opens(cls, folder: Path) -> bool:
        from graphprune.backends.runtime.runner import model_files

        return any(path.is_file() for path in model_files(folder))

    @classmethod
    def open(cls, folder: Path, provider: str = "auto", threads: int | None = None) -> "OnnxModel":
        from graphprune.backends.runtime.runner import load

        return load(folder, provider, threads)

    @classmethod
    def provider(cls, asked: str) -> str:
        from graphprune.backends.runtime.providers import choose_providers

        return choose_providers(asked)[0]

    def open_layers(self, folder: Path, narrow: int, wide: int, count: int) -> "OnnxModel":
        from graphprune.backends.onnx.layers import write_layers

        write_layers(folder / "model.onnx", narrow, wide, count)
        return self.open(folder, "cpu")
