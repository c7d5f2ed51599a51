"""The GGUF backend: a Llama-shaped decoder as one file for llama.cpp and what is built on it."""

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
class Gguf(Backend):
    """Write `gguf/model-f16.gguf`: architecture llama where layers are equal, deci where they differ.

    `precision` is that of matrices: f32, f16, bf16, or q8_0 with blocks of 32 (rows that are no multiple stay f16).
    Norms are f32. `pre` names how llama.cpp splits texts, for a tokenizer that is not known here. llama.cpp's own tools
    pack such a file further. It needs the gguf package (`graphprune[gguf]`).
    """

    name: ClassVar[str] = "gguf"
    files: ClassVar[tuple[str, ...]] = ("*.gguf",)
    fixed: ClassVar[bool] = True
    precision: Literal["f32", "f16", "bf16", "q8_0"] = "f16"
    pre: str = ""
    folder: str = "gguf"

    def __post_init__(self) -> None:
        require_limits(self, self.name)

    @property
    def place(self) -> str:
        return self.folder

    def quantity(self, graph: "Graph") -> "FileBytes":
        """What the file takes at most."""
        from graphprune.budget.quantities import FileBytes

        return FileBytes("fp32" if self.precision == "f32" else "half", buffers=False, place=self.label)

    def require_source(self, graph: "Graph") -> None:
        from graphprune.backends.gguf.shapes import check_source

        check_source(graph)

    def export(self, graph: "Graph", folder: Path) -> list[Path]:
        """Write the file and return its path.

        Raises ExportError where llama.cpp has no architecture that computes this graph, with the reason.
        """
        from graphprune.backends.gguf.file import write_file
        from graphprune.backends.gguf.shapes import read_shape
        from graphprune.ir.placement import on_cpu

        graph, target = on_cpu(graph), folder / self.place
        shape = read_shape(graph)
        try:
            target.mkdir(parents=True, exist_ok=True)
            path = target / f"model-{self.precision}.gguf"
            write_file(path, graph, shape, self.precision, self.pre)
        except OSError as error:
            raise ExportError(f"cannot write {error.filename or target}: {error.strerror or error}") from error
        return [path]
