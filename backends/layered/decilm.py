"""The decilm backend: block_configs for DeciLMForCausalLM of vLLM and SGLang, whose layers may differ."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, final

from graphprune.bounds import require_limits
from graphprune.budget.backend import Backend
from graphprune.errors import ExportError

if TYPE_CHECKING:
    from graphprune.budget.quantities import FileBytes
    from graphprune.ir.graph import Graph


@final
@dataclass(frozen=True)
class DeciLm(Backend):
    """Write `decilm/`: a checkpoint with block_configs, which vLLM reads as DeciLMForCausalLM.

    Query heads are equal in all layers; MLP channels, and whether there is attention or an MLP, are each layer's own.
    With `multiple=256` an MLP's size is said as the ffn_mult that SGLang, exllamav3 and mlx-lm read too, and must be a
    multiple. Weights above `shard_bytes` are split into several files.
    """

    name: ClassVar[str] = "decilm"
    files: ClassVar[tuple[str, ...]] = ("*.safetensors",)
    fixed: ClassVar[bool] = True
    multiple: Literal[1, 256] = 1
    folder: str = "decilm"
    shard_bytes: int = 5_000_000_000

    def __post_init__(self) -> None:
        require_limits(self, self.name)

    @property
    def place(self) -> str:
        return self.folder

    def quantity(self, graph: "Graph") -> "FileBytes":
        from graphprune.budget.quantities import checkpoint_bytes

        return checkpoint_bytes(graph, self.label)

    def require_source(self, graph: "Graph") -> None:
        from graphprune.backends.layered.decilm_form import check_source

        check_source(graph, self.multiple)

    def export(self, graph: "Graph", folder: Path) -> list[Path]:
        """Write the folder and return the paths of its files. Raises ExportError, naming what has no place in it."""
        from graphprune.backends.layered.decilm_form import CODE, make_form
        from graphprune.backends.layered.writing import write_form
        from graphprune.ir.placement import on_cpu

        graph, target = on_cpu(graph), folder / self.place
        form = make_form(graph, self.multiple)
        try:
            return write_form(form, graph, target, self.shard_bytes, (CODE,))
        except OSError as error:
            raise ExportError(f"cannot write {error.filename or target}: {error.strerror or error}") from error
