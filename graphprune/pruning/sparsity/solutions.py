"""Solutions: the weights that a run has found so far, in a folder, so that it goes on after a kill to the same bits."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from graphprune.pruning.reconstruct import Solution
from graphprune.pruning.search.library import Library

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
