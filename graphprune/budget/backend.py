"""The interface of backends: what writes a graph in one format, and opens what it wrote.

Nothing heavy is imported here, nor at the top of the backends' own modules: a process that only runs a model, whose
memory may be measured, loads them too.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from graphprune.errors import UsageError

if TYPE_CHECKING:
    from graphprune.budget.quantities import FileBytes
    from graphprune.ir.graph import Graph
    from graphprune.running.open_model import OpenModel


class Backend(ABC):
    """Writes graphs in one format. Subclasses are final frozen dataclasses whose fields are the options.

    `name` is the one in specs. A format is `fixed` that has architectures of its own, and no place for other operators.
    `files` are the patterns of the files that hold the model, in its folder. `runtime` is
    where `open` runs it, empty where that cannot be done.
    """

    name: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = ()
    runtime: ClassVar[str] = ""
    fixed: ClassVar[bool] = False

    @property
    def place(self) -> str:
        """The folder below the artefact's that it writes to; empty for the artefact's own."""
        return self.name

    @property
    def label(self) -> str:
        """What a target calls its file: by its folder, `checkpoint` in the artefact's own."""
        return self.place or "checkpoint"

    def require_source(self, graph: "Graph") -> None:
        """Raise ExportError where the format has no place for what this graph is of, however it is cut.

        It is asked before anything is done; the graph may have no weights.
        """
        return

    @abstractmethod
    def export(self, graph: "Graph", folder: Path) -> list[Path]:
        """Write the graph below the artefact's `folder` and return the paths. Raises ExportError."""

    def quantity(self, graph: "Graph") -> "FileBytes | None":
        """What the model's file takes, as a function of the widths; None where no file can be asked for by size."""
        return None

    def tuned(self, block: int) -> Self:
        """The backend for a graph whose weights are tuned in 4 bits, in blocks of so many inputs.

        Raises UsageError where it writes weights in few bits and cannot write these as they are.
        """
        return self

    def expresses(self, graph: "Graph") -> bool:
        """Say whether the format has a class of its own with exactly this graph's shapes."""
        return False

    @classmethod
    def size_in(cls, folder: Path) -> int:
        """Bytes of the model's files in a folder that it wrote to."""
        return sum(path.stat().st_size for pattern in cls.files for path in folder.glob(pattern))

    @classmethod
    def opens(cls, folder: Path) -> bool:
        """Say whether there is a model in a folder, or in one below, that `open` runs."""
        return False

    @classmethod
    def open(cls, folder: Path, provider: str = "auto", threads: int | None = None) -> "OpenModel":
        """Open the model in a folder that `opens` knows.

        `provider` is auto, cpu or cuda, `threads` the number of the processor's, None for the runtime's choice. Raises
        GraphpruneError for a damaged file, UsageError for a provider that is not there.
        """
        raise UsageError(f"what the backend {cls.name} writes is not run here")

    @classmethod
    def provider(cls, asked: str) -> str:
        """Where `open` would run a model, as the runtime calls it. Raises UsageError for one that is not there."""
        raise UsageError(f"what the backend {cls.name} writes is not run here")

    def open_layers(self, folder: Path, narrow: int, wide: int, count: int) -> "OpenModel":
        """So many MLPs in a row, narrow to wide to narrow from input `x`, written as this backend keeps weights.

        How long they take says which widths its runtime likes.
        """
        raise UsageError(f"the backend {self.name} has no layers to measure widths with")
