"""Capture by blocks: where a model's blocks repeat, the first of each kind are traced and the others follow from them.

Why the result equals the whole trace: decision 0020. Where anything does not fit, the whole model is traced.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from graphprune.errors import CaptureError, ForeignError, foreign_code
from graphprune.frontend.blocks.recording import Stack, record
from graphprune.frontend.blocks.relation import NotRepeatedError, Relative, layer_of, relate
from graphprune.frontend.blocks.repetition import (
    Repetition,
    find_repetitions,
    find_stacks,
    label,
    require_same,
    shared_stacks,
)
from graphprune.frontend.blocks.replication import replicate
from graphprune.frontend.tracing.failures import quiet_torch
from graphprune.frontend.tracing.normalise import capture_module, evaluating
from graphprune.frontend.tracing.program_reader import named_tensors, tensor_names
from graphprune.garbage import uncollected
from graphprune.ir.cleanups import Cleanup
from graphprune.ir.graph import Graph
from graphprune.models.contract import Contract
from graphprune.models.decoder import Decoder
from graphprune.models.patches import Patches


@dataclass(frozen=True)
class Repeated:
    """What was found of a model whose blocks repeat: where, and which calls it makes."""

    stacks: tuple[Stack, ...]
    repetitions: tuple[Repetition, ...]
    stateful: str | None
    calls: Relative


def capture_graph(
    module: nn.Module, contract: Contract, prefix: str = "", patches: Patches = contextlib.nullcontext
) -> Graph:
    """The graph that `capture_module` gives, with equal blocks traced once. Raises CaptureError."""
    with contextlib.suppress(NotRepeatedError), uncollected():
        return capture_repeated(module, contract, prefix, patches)
    graph = capture_module(module, contract, prefix, patches)
    return replace(graph, cleanups=(*graph.cleanups, Cleanup("repeat_blocks")))


def capture_repeated(module: nn.Module, contract: Contract, prefix: str, patches: Patches) -> Graph:
    """Trace the model with its first blocks alone and continue the graph. Raises NotRepeatedError with the reason."""
    with evaluating(module), quiet_torch():
        repeated = find_repeated(module, contract, patches)
        narrow = narrow_contract(contract, repeated)
        with shortened(repeated):
            short = Decoder(module.model, tuple(narrow.inputs)) if isinstance(module, Decoder) else module
            with refusing():
                recording = record(short, narrow, repeated.stacks, patches)
            require_same(repeated.calls, relate(recording, repeated.stacks, repeated.stateful), repeated.repetitions)
            try:
                small = capture_module(short, narrow, prefix, patches)
            except CaptureError as error:  # said of the whole model, which is tried next
                raise NotRepeatedError(str(error)) from error
    repetitions = [replace(r, path=r.path.removeprefix(prefix)) for r in repeated.repetitions]
    whole = {name.removeprefix(prefix): tensor for name, tensor in named_tensors(module).items()}
    graph = replicate(small, repetitions, contract, whole, tensor_names(module, prefix))
    return replace(graph, cleanups=(*graph.cleanups, Cleanup("repeat_blocks", describe_repetitions(repetitions))))


def describe_repetitions(repetitions: Sequence[Repetition]) -> str:
    return ", ".join(f"{len(r.sources)} blocks of {r.path} made of the first {r.kept}" for r in repetitions)


def find_repeated(module: nn.Module, contract: Contract, patches: Patches) -> Repeated:
    """Compare the blocks of a model in one run on fake tensors. Raises NotRepeatedError where none repeat."""
    found = list(find_stacks(module))
    shared = shared_stacks(module, found)
    stacks = [stack for stack in found if stack.path not in shared]
    if not stacks:
        raise NotRepeatedError("no list of blocks has equal members that share no parameter")
    labels = {stack.path: label(stack) for stack in stacks}
    with refusing():
        recording = record(module, contract, stacks, patches)
    repetitions, calls, stateful = find_repetitions(recording, labels, stacks)
    if not repetitions:
        raise NotRepeatedError("no two blocks make the same calls one after the other")
    paths = {r.path for r in repetitions}
    return Repeated(tuple(stack for stack in stacks if stack.path in paths), repetitions, stateful, calls)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """A model that does not run on fake tensors is not compared; the whole trace says what is wrong with it."""
    try:
        with foreign_code():
            yield
    except ForeignError as error:
        raise NotRepeatedError(f"the model does not run on fake tensors: {error}") from error


def narrow_contract(contract: Contract, repeated: Repeated) -> Contract:
    """The contract without the states of blocks that are left out."""
    kept = next((r.kept for r in repeated.repetitions if r.path == repeated.stateful), None)
    if kept is None:
        return contract

    def stays(name: str) -> bool:
        layer = layer_of(name)
        return layer is None or layer < kept

    inputs = {name: tensor for name, tensor in contract.inputs.items() if stays(name)}
    outputs = tuple(filter(stays, contract.outputs)) if contract.outputs is not None else None
    return replace(contract, inputs=inputs, outputs=outputs)


@contextlib.contextmanager
def shortened(repeated: Repeated) -> Iterator[None]:
    """Take all but the first blocks out of the model, and put them back."""
    whole: list[tuple[nn.Module, dict[str, nn.Module | None]]] = []
    try:
        for stack, repetition in zip(repeated.stacks, repeated.repetitions, strict=True):
            members = stack.container._modules
            whole.append((stack.container, members))
            stack.container._modules = dict(list(members.items())[: repetition.kept])
        yield
    finally:
        for container, members in whole:
            container._modules = members
