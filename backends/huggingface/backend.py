"""The huggingface backend: a graph as a folder that `AutoModelForCausalLM.from_pretrained` loads."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, final

from graphprune.budget.backend import Backend
from graphprune.errors import ExportError

if TYPE_CHECKING:
    from graphprune.budget.quantities import FileBytes
    from graphprune.ir.graph import Graph


@final
@dataclass(frozen=True)
class HuggingFace(Backend):
    """Write config.json, safetensors and the source's tokenizer, template and licence files.

    `form` is `auto`: a stock checkpoint where a configuration of the source's own architecture has the graph's shapes
    and computes what the graph computes, otherwise the generic `modeling_graphprune.py`; `stock` and `generic` force
    one. Weights above `shard_bytes` are split into several files.
    """

    name: ClassVar[str] = "huggingface"
    files: ClassVar[tuple[str, ...]] = ("*.safetensors",)
    form: Literal["auto", "stock", "generic"] = "auto"
    shard_bytes: int = 5_000_000_000

    @property
    def place(self) -> str:
        """The artefact's own folder, which transformers opens."""
        return ""

    def quantity(self, graph: "Graph") -> "FileBytes":
        from graphprune.budget.quantities import checkpoint_bytes

        return checkpoint_bytes(graph, self.label)

    def export(self, graph: "Graph", folder: Path) -> list[Path]:
        """Write the checkpoint; returns the paths of its files.

        Raises ExportError where the graph has no stock form and `stock` was asked for, where a tensor has no data, or
        where a file cannot be written.
        """
        from safetensors import SafetensorError

        from graphprune.backends.huggingface.copying import copy_companions
        from graphprune.ir.placement import on_cpu

        meta = next((name for name, tensor in graph.tensors().items() if tensor.is_meta), None)
        if meta is not None:
            raise ExportError(f"{meta} has no weights; capture the model with weights before exporting it")
        graph = on_cpu(graph)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            written = self.write(graph, folder)
            return sorted({*written, *copy_companions(graph.source.files, folder)})
        except OSError as error:  # a copy that fails names its source first
            raise ExportError(f"cannot write {error.filename2 or folder}: {error.strerror or error}") from error
        except SafetensorError as error:
            raise ExportError(f"cannot write {folder}: {error}") from error

    def expresses(self, graph: "Graph") -> bool:
        """Say whether some configuration of the source's own architecture has this graph's shapes."""
        from graphprune.backends.huggingface.stock_configs import stock_config

        return stock_config(graph) is not None

    def write(self, graph: "Graph", folder: Path) -> list[Path]:
        from graphprune.backends.huggingface.generic_checkpoint import write_generic
        from graphprune.backends.huggingface.skeletons import quiet
        from graphprune.backends.huggingface.stock_checkpoint import narrow_model, stock_models, write_stock
        from graphprune.ir.serial import narrowest_dtype

        with quiet():
            model = None if self.form == "generic" else next(stock_models(graph), None)
            if model is not None:
                narrow_model(model, narrowest_dtype(graph))
                return write_stock(model, folder, self.shard_bytes)
        if self.form == "stock":
            raise ExportError(f"no configuration of {graph.source.architecture or 'the source'} fits; use form=generic")
        return write_generic(graph, folder, self.shard_bytes)
