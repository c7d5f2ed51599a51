"""Experts in files: where each expert of a stack lies, and how it is read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.errors import SourceError
from graphprune.offload.sources import Files, Made
from graphprune.weights.mapping import ALIGNMENT, empty_at, expect, release
from graphprune.weights.residents import Origin

_MERGES, _JOINS = "MergeModulelist", "Concatenate"


@dataclass(frozen=True, eq=False)
class Expert:
    """The tensors whose rows are an expert's weight, one after the other, mapped from files."""

    parts: Sequence[Tensor]

    def read(self, shape: Sequence[int], dtype: torch.dtype, place: int) -> Tensor:
        """The weight in memory of its own, `place` bytes behind a multiple of 64; the files' pages are given back."""
        result, start = empty_at(shape, dtype, place), 0
        for part in self.parts:
            result[start : start + len(part)].copy_(part)
            start += len(part)
            release(part)
        return result

    def expect(self) -> None:
        for part in self.parts:
            expect(part)


def origin_of(
    name: str, parameter: Tensor, dtype: torch.dtype, made: Made, files: Files, gathered: bool = False
) -> Origin:
    """Where the experts of a stack are; `gathered` says that the model copies what it picks before it multiplies.

    Raises SourceError where the file has them in a form that is not streamed.
    """
    experts = experts_in(name, made, files)
    shape = parameter.shape[1:]
    for number, expert in enumerate(experts):
        rows = sum(len(part) for part in expert.parts)
        if (rows, *expert.parts[0].shape[1:]) != tuple(shape):
            raise SourceError(f"expert {number} of {name} is {rows} rows of {tuple(expert.parts[0].shape)} in its file")
    if len(experts) != len(parameter):
        raise SourceError(f"{name} has {len(parameter)} experts, its files {len(experts)}; copy the checkpoint again")
    size, whole = shape.numel() * dtype.itemsize, made.converter is None

    def read(number: int) -> Tensor:
        """It lies as it does in the stack that transformers makes, or has from the file."""
        first = experts[number].parts[0]
        place = number * size if not whole or first.dtype != dtype else 0 if gathered else first.data_ptr()
        return experts[number].read(shape, dtype, place % ALIGNMENT)

    return Origin(name, name.rpartition(".")[0], len(experts), size, read, lambda number: experts[number].expect())


def experts_in(name: str, made: Made, files: Files) -> list[Expert]:
    """The experts of a stack: parts of one tensor, or tensors of their own that lie one below the other."""
    if made.converter is None:
        whole = files.tensor(made.all_names()[0])
        return [Expert([expert]) for expert in whole]
    steps = [(type(step).__name__, getattr(step, "dim", None)) for step in made.converter.operations]
    if steps not in ([(_MERGES, 0)], [(_MERGES, 0), (_JOINS, 1)]):
        said = ", ".join(step for step, _ in steps)
        raise SourceError(f"the files have {name} in a form ({said}) of which no single expert can be read")
    order = [pattern for pattern in made.converter.source_patterns if pattern in made.names]
    columns = [[files.tensor(each) for each in made.names[pattern]] for pattern in order]
    if len({len(column) for column in columns}) != 1:
        raise SourceError(f"the files lack tensors of some experts of {name}; copy the checkpoint again")
    return [Expert(parts) for parts in zip(*columns, strict=True)]
