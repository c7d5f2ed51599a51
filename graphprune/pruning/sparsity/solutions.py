"""Solutions: the weights that a run has found so far, in a folder, so that it goes on after a kill to the same bits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from graphprune.data.tensor_names import name_tensors
from graphprune.ir.graph import Graph
from graphprune.pruning.interfaces import Scene
from graphprune.pruning.reconstruct import Solution
from graphprune.pruning.search.library import Levels, Library
from graphprune.running.inputs import by_name

_ONE = 0  # what the library has of a call here: one solution


@final
@dataclass(frozen=True)
class SolutionFolder:
    """A folder with a file for each call that has been solved; files appear whole."""

    folder: Path

    def read(self, name: str) -> Solution | None:
        library = Library(self.folder)
        if not library.holds(name):
            return None
        found = library.read(name, _ONE)
        # In memory of its own: how it is aligned can change the last bit of a product.
        return replace(found, weight=found.weight.clone())

    def write(self, name: str, solution: Solution) -> None:
        Library(self.folder).write(name, {_ONE: solution})


@final
@dataclass(frozen=True)
class LevelledSolutions:
    """The solutions that a level library is made along: of calls with levels the expected one, of others their own.

    So what was made once for a library is not made again for the next target that has it. `inputs` says how many a
    call with levels reads.
    """

    library: Library
    levels: Mapping[str, Levels]
    inputs: Mapping[str, int]

    @property
    def others(self) -> SolutionFolder:
        return SolutionFolder(self.library.folder / "calls")

    def read(self, name: str) -> Solution | None:
        if name not in self.levels:
            return self.others.read(name)
        if not self.library.holds(name):
            return None
        return self.library.expected(name, self.levels[name], self.inputs[name])

    def write(self, name: str, solution: Solution) -> None:
        if name not in self.levels:  # the solver has written those
            self.others.write(name, solution)


def solutions_of(scene: Scene, cut: Graph, asked: str) -> SolutionFolder | None:
    """Where the solutions of a cut graph's calls on a scene's text are kept; None where the run keeps nothing.

    `asked` says how they are solved.
    """
    if scene.folder is None:
        return None
    texts = {f"text {i} {name}": t for i, batch in enumerate(scene.batches) for name, t in by_name(batch).items()}
    return SolutionFolder(scene.folder / f"solved-{name_tensors({**cut.tensors(), **texts}, asked)}")
