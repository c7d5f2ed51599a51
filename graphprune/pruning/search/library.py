"""The level library: for each reader the weights that it has at each of a few counts, solved and kept in a folder."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from graphprune.data.tensor_names import name_tensors
from graphprune.pruning.activations.moments import Moments
from graphprune.pruning.reconstruct import Solution, Solver, Target
from graphprune.running.inputs import Batch, by_name


@dataclass(frozen=True)
class Library:
    """A folder with a file for each call: its weight over the inputs that stay, at each count, and what its bias gains.

    Files appear whole, so that what was begun goes on after a kill.
    """

    folder: Path

    def path(self, call: str) -> Path:
        return self.folder / f"{call}.safetensors"

    def holds(self, call: str) -> bool:
        return self.path(call).is_file()

    def read(self, call: str, count: int) -> Solution:
        with safe_open(self.path(call), "pt") as file:
            shift = f"{count}.shift"
            found = file.get_tensor(shift) if shift in set(file.keys()) else None
            return Solution(file.get_tensor(f"{count}.weight"), found)

    def expected(self, call: str, levels: "Levels", inputs: int) -> Solution:
        """What later calls expect of a call, over all of its inputs."""
        level, kept = self.read(call, levels.expected), levels.kept[levels.expected]
        return Solution(spread(level.weight, kept, level.weight.new_empty(len(level.weight), inputs)), level.shift)

    def write(self, call: str, levels: Mapping[int, Solution]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"{count}.weight": level.weight.cpu().contiguous() for count, level in levels.items()}
        tensors |= {f"{count}.shift": level.shift.cpu() for count, level in levels.items() if level.shift is not None}
        part = self.folder / f".{call}.part"
        save_file(tensors, part)
        os.replace(part, self.path(call))


@dataclass(frozen=True, eq=False)
class Levels:
    """What a call may keep: the inputs that stay at each count, and the count that later calls expect of it."""

    kept: Mapping[int, Tensor]
    expected: int


@final
@dataclass(frozen=True, eq=False)
class LevelSolver:
    """Solves calls that have levels at each of these, keeps them, and goes on with the expected one; others as usual.

    A call with levels reads all of its inputs here: those that do not stay have zeros in its weight.
    """

    library: Library
    levels: Mapping[str, Levels]
    ridge: Solver

    @property
    def work(self) -> torch.dtype:
        return self.ridge.work

    def __call__(self, seen: Moments, weight: Tensor, targets: Iterator[Target], centred: bool) -> Solution:
        own = self.levels.get(seen.name)
        if own is None:
            return self.ridge(seen, weight, targets, centred)
        if not self.library.holds(seen.name):
            wanted = list(targets)
            self.library.write(
                seen.name, {n: solve_level(self.ridge, seen, weight, wanted, k, centred) for n, k in own.kept.items()}
            )
        return self.library.expected(seen.name, own, weight.shape[1])


def solve_level(
    ridge: Solver, seen: Moments, weight: Tensor, targets: Sequence[Target], kept: Tensor, centred: bool
) -> Solution:
    """The solution over the inputs that stay."""
    kept = kept.to(weight.device)
    gram, mean = seen.gram[kept][:, kept], seen.mean[kept]
    part = Moments((), seen.weights, gram, mean, seen.name, seen.work)
    narrow = (Target(t.rows, t.moment[kept], t.mean, None if t.kept is None else t.kept[:, kept]) for t in targets)
    return ridge(part, weight[:, kept], narrow, centred)


def spread(weight: Tensor, kept: Tensor, like: Tensor) -> Tensor:
    """A weight over the inputs that stay as one over all: zeros elsewhere."""
    wide = torch.zeros_like(like)
    wide[:, kept.to(like.device)] = weight.to(wide)
    return wide


def library_key(tensors: Mapping[str, Tensor], batches: Sequence[Batch], levels: Mapping[str, Levels], how: str) -> str:
    """A name for all that a library depends on: the weights, the text, the levels, and how they were solved."""
    texts = {f"text {i} {name}": t for i, batch in enumerate(batches) for name, t in by_name(batch).items()}
    kept = {f"{call} {count}": each for call, own in levels.items() for count, each in own.kept.items()}
    expected = "".join(f"\n{call} {own.expected}" for call, own in levels.items())
    return name_tensors({**tensors, **texts, **kept}, how + expected)
