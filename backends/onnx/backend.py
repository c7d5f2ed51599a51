"""The ONNX backend: a graph as a self-contained folder that onnxruntime and onnxruntime-genai open."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

import torch

from graphprune.backends.onnx.genai import write_genai_config
from graphprune.backends.onnx.types import widen_types
from graphprune.budget.quantities import FileBytes
from graphprune.errors import ExportError
from graphprune.ir.graph import Graph
from graphprune.ir.placement import on_cpu

if TYPE_CHECKING:
    import onnx_ir
    from torch import fx

    from graphprune.backends.onnx.translate import Fusion

# What onnxruntime-genai and transformers read beside model.onnx, where the source has it.
_COMPANIONS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)
_EXTERNAL_BYTES = 1024


@final
@dataclass(frozen=True)
class Onnx:
    """Write `onnx/model.onnx` and `onnx/model.onnx.data` in portable ai.onnx, and what runtimes read beside them.

    These are genai_config.json for a decoder and the source's configuration and tokenizer files. One graph serves
    prefill and decoding: it takes and returns the cache under the graph's contract names; batch, sequence and past are
    symbolic, head counts and head sizes integers. Half-precision graphs are written in float32 unless `keep_half` is
    set. Initialisers carry the source model's parameter names; the weight of a linear layer is written as MatMul
    reads it, [in, out].
    """

    name: ClassVar[str] = "onnx"
    opset: int = 20
    keep_half: bool = False
    folder: str = "onnx"

    @property
    def place(self) -> str:
        """The folder below the artefact's."""
        return self.folder

    def quantity(self, graph: Graph) -> FileBytes:
        """What the model file takes, as a function of the widths."""
        half = self.keep_half and any(p.dtype.itemsize == 2 for p in graph.parameters().values())
        return FileBytes("half" if half else "fp32", place=self.place)

    def export(self, graph: Graph, folder: Path) -> list[Path]:
        """Write the files below `folder` and return their paths, model.onnx first.

        Raises ExportError naming the node that has no translation, the tensor without weights, or the file.
        """
        graph, target = on_cpu(graph), folder / self.place
        model = self.build(graph)
        try:
            target.mkdir(parents=True, exist_ok=True)
            return [*write_model(model, target), *write_companions(graph, target)]
        except OSError as error:
            raise ExportError(f"cannot write {error.filename or target}: {error.strerror or error}") from error

    def build(self, graph: Graph) -> "onnx_ir.Model":
        """Translate the graph; the result refers to the graph's tensors and has written nothing."""
        return build_model(graph if self.keep_half else widen_types(graph, torch.float32), self.opset)


def build_model(graph: Graph, opset: int, fusions: "Mapping[fx.Node, Fusion] | None" = None) -> "onnx_ir.Model":
    """Translate the graph, see `translate`, and say what made it. Raises ExportError."""
    from graphprune.backends.onnx.translate import translate

    if opset < 20:
        raise ExportError(f"opset {opset} is too old: the ONNX backend writes opset 20 or newer")
    model = translate(graph, opset, fusions)
    model.producer_version = package_version()
    model.metadata_props["graphprune.version"] = package_version()
    return model


def write_model(model: "onnx_ir.Model", folder: Path) -> list[Path]:
    """Save with every initialiser above 1 KiB in one data file beside the model, aligned for memory mapping."""
    import onnx_ir

    path, data = folder / "model.onnx", folder / "model.onnx.data"
    onnx_ir.save(model, path, external_data=data.name, size_threshold_bytes=_EXTERNAL_BYTES)
    data.touch()  # a model of small tensors only has an empty one: the layout never depends on the weights
    data.chmod(path.stat().st_mode)  # it is made as a temporary file, which only its owner may read
    return [path, data]


def write_companions(graph: Graph, target: Path, shared: bool = False) -> list[Path]:
    """What runtimes read beside the model; `shared` says that the cache may be one buffer of full length."""
    return [*write_genai_config(graph, target, shared), *copy_companions(graph.source.files, target)]


def copy_companions(source: Path | None, target: Path) -> list[Path]:
    """Copy the configuration and tokenizer files that the source folder has, byte for byte."""
    if source is None:
        return []
    return list(copy_present(source, target, _COMPANIONS))


def copy_present(source: Path, target: Path, names: Iterable[str]) -> Iterable[Path]:
    for name in names:
        if (source / name).is_file():
            yield Path(shutil.copyfile(source / name, target / name))


def package_version() -> str:
    try:
        return version("graphprune")
    except PackageNotFoundError:
        return "unknown"
