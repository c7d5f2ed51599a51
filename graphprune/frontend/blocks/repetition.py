"""Repetition: which blocks of a model do the same, by their classes and attributes and by what they did in one run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from graphprune.frontend.blocks.equality import same_block
from graphprune.frontend.blocks.recording import Owner, Recording, Stack
from graphprune.frontend.blocks.relation import NotRepeatedError, Relative, layer_of, owner_of, relate, without_borders


@dataclass(frozen=True)
class Repetition:
    """A list of blocks of which the first `kept` stand for all: block i does what block `sources[i]` does.

    `like_first` is a kept block that equals block 0 in all but what comes into it, if there is one.
    """

    path: str
    sources: tuple[int, ...]
    kept: int
    like_first: int | None


def find_stacks(module: nn.Module, path: str = "") -> Iterator[Stack]:
    """The outermost containers in which some block after the first has an equal."""
    for name, child in module.named_children():
        stack = Stack(f"{path}{name}", child)
        if is_numbered(child) and is_repeating(label(stack)):
            yield stack
        else:
            yield from find_stacks(child, f"{stack.path}.")


def is_numbered(module: nn.Module) -> bool:
    """Say whether a module is a list of three or more under their numbers; a sequence may name its parts otherwise."""
    names = [*module._modules]
    return (
        isinstance(module, (nn.ModuleList, nn.Sequential))
        and len(names) > 2
        and names == [*map(str, range(len(names)))]
    )


def label(stack: Stack) -> tuple[int, ...]:
    """For each block the first one that equals it in classes and attributes."""
    members, labels = stack.members, list[int]()
    for index, member in enumerate(members):
        firsts = dict.fromkeys(labels)
        labels.append(next((f for f in firsts if same_block(members[f], member, f, index)), index))
    return tuple(labels)


def is_repeating(labels: Sequence[int]) -> bool:
    return count_kept(sources_of(labels)) < len(labels)


def sources_of(keys: Sequence[Any]) -> tuple[int, ...]:
    """For each block the first with an equal key; block 0, whose input comes from elsewhere, stands for itself only."""
    return (0, *(next(j for j in range(1, i + 1) if keys[j] == keys[i]) for i in range(1, len(keys))))


def count_kept(sources: Sequence[int]) -> int:
    return max(sources) + 1


def shared_stacks(module: nn.Module, stacks: Sequence[Stack]) -> set[str]:
    """The paths of stacks with a parameter or buffer that something outside its block has too."""
    owners: dict[int, set[Owner]] = {}
    tensors = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    for name, tensor in tensors:
        owners.setdefault(id(tensor), set()).add(owner_of(name, stacks))
    return {owner[0] for places in owners.values() if len(places) > 1 for owner in places if owner is not None}


def is_in_turn(recording: Recording, stack: Stack) -> bool:
    """Say whether each block was called once, in order, with no call between one and the next."""
    entered = [entry for entry in recording.entered if entry[0] is not None and entry[0][0] == stack.path]
    in_order = [owner for owner, _, _ in entered] == [(stack.path, i) for i in range(len(stack.members))]
    return in_order and all(end == start for (_, _, end), (_, start, _) in pairwise(entered))


def state_stack(recording: Recording) -> str | None:
    """The path of the stack whose block i makes the states of layer i, where one does."""
    paths = set()
    for name, token in recording.returned.items():
        if layer_of(name) is not None:
            owner = recording.calls[token.what].owner if token.kind == "result" else None
            if owner is None or owner[1] != layer_of(name):
                return None
            paths.add(owner[0])
    return paths.pop() if len(paths) == 1 else None


def find_repetitions(
    recording: Recording, labels: Mapping[str, tuple[int, ...]], stacks: Sequence[Stack]
) -> tuple[tuple[Repetition, ...], Relative, str | None]:
    """The stacks that repeat, the run relative to their blocks, and the path of the one that makes the states."""
    left = [stack for stack in stacks if is_in_turn(recording, stack)]
    while True:
        makes = state_stack(recording)
        stateful = makes if makes in {stack.path for stack in left} else None
        relative = relate(recording, left, stateful)
        found = [repetition(stack, labels[stack.path], relative.blocks[stack.path]) for stack in left]
        if all(r.kept < len(r.sources) for r in found):
            return tuple(found), relative, stateful
        left = [stack for stack, r in zip(left, found, strict=True) if r.kept < len(r.sources)]


def repetition(stack: Stack, labels: tuple[int, ...], blocks: Sequence[Any]) -> Repetition:
    keys = list(zip(labels, blocks, strict=True))
    sources = sources_of(keys)
    kept = count_kept(sources)
    inside = list(map(without_borders, keys[:kept]))
    return Repetition(stack.path, sources, kept, next((i for i in range(1, kept) if inside[i] == inside[0]), None))


def require_same(full: Relative, small: Relative, repetitions: Sequence[Repetition]) -> None:
    """Check that the model with fewer blocks does what the whole one does, but for the blocks left out.

    Raises NotRepeatedError.
    """
    if full.outside != small.outside or full.returned != small.returned:
        raise NotRepeatedError("with fewer blocks the model does something else outside of them")
    for r in repetitions:
        if full.blocks[r.path][: r.kept] != small.blocks[r.path]:
            raise NotRepeatedError(f"the first blocks of {r.path} do something else where there are fewer of them")
