"""The openelm backend: lists of heads and channels for mlx-lm's openelm, whose layers may differ."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from graphprune.budget.backend import Backend
from graphprune.errors import ExportError

if TYPE_CHECKING:
    from graphprune.budget.quantities import FileBytes
    from graphprune.ir.graph import Graph


@final
@dataclass(frozen=True)
class OpenElm(Backend):
    """Write `openelm/`: a checkpoint that mlx-lm opens, with query heads, key heads and MLP channels for each layer.

    The projections of queries, keys and values are one tensor there, and those of gate and up. It has no scaled
    rotations and no biases. What is absent is written as the smallest one of zeros. Weights above `shard_bytes` are
    split into several files.
    """

    name: ClassVar[str] = "openelm"
    files: ClassVar[tuple[str, ...]] = ("*.safetensors",)
    fixed: ClassVar[bool] = True
    folder: str = "openelm"
    shard_bytes: int = 5_000_000_000

    @property
    def place(self) -> str:
        return self.folder

    def quantity(self, graph: "Graph") -> "FileBytes":
        from graphprune.budget.quantities import checkpoint_bytes

        return checkpoint_bytes(graph, self.label)

    def require_source(self, graph: "Graph") -> None:
        from graphprune.backends.layered.openelm_form import check_source

        check_source(graph)

    def export(self, graph: "Graph", folder: Path) -> list[Path]:
        """Write the folder and return the paths of its files. Raises ExportError, naming what has no place in it."""
        from graphprune.backends.layered.openelm_form import make_form
        from graphprune.backends.layered.writing import write_form
        from graphprune.ir.placement import on_cpu

        graph, target = on_cpu(graph), folder / self.place
        form = make_form(graph)
        try:
            return write_form(form, graph, target, self.shard_bytes)
        except OSError as error:
            raise ExportError(f"cannot write {error.filename or target}: {error.strerror or error}") from error
