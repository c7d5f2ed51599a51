"""The files of an ONNX folder: the model, its data, and what runtimes read beside them."""

import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from graphprune.backends.onnx.genai import write_genai_config
from graphprune.backends.onnx.tokenizer_files import write_tokenizer
from graphprune.errors import ExportError
from graphprune.ir.graph import Graph
from graphprune.paths import stays_inside

if TYPE_CHECKING:
    import onnx_ir
    from torch import fx

    from graphprune.backends.onnx.values import Fusion

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
    """Copy the configuration and tokenizer files that the source folder has, the latter as transformers uses them."""
    if source is None:
        return []
    return sorted({*copy_present(source, target, _COMPANIONS), *write_tokenizer(source, target)})


def copy_present(source: Path, target: Path, names: Iterable[str]) -> Iterable[Path]:
    for name in names:
        if (source / name).is_file() and stays_inside(source / name, source):
            yield Path(shutil.copyfile(source / name, target / name))


def package_version() -> str:
    try:
        return version("graphprune")
    except PackageNotFoundError:
        return "unknown"
