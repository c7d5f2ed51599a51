"""Capture: any `nn.Module` with example inputs becomes one functional, flat `Graph` with named symbolic sizes."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
import torch._dynamo.config
from torch import nn
from torch.export import ExportedProgram

from graphprune.errors import CaptureError, ForeignError, foreign_code
from graphprune.frontend.tracing.cleanups import clean
from graphprune.frontend.tracing.failures import explain_failure, quiet_torch
from graphprune.frontend.tracing.functional import is_simple
from graphprune.frontend.tracing.program_reader import ProgramReader, tensor_names
from graphprune.frontend.tracing.programs import export_within_bounds, note_bounds
from graphprune.garbage import uncollected
from graphprune.ir.cleanups import Cleanup
from graphprune.ir.graph import Graph, Source
from graphprune.models.contract import Contract
from graphprune.models.patches import Patches


def capture_module(
    module: nn.Module, contract: Contract, prefix: str = "", patches: Patches = contextlib.nullcontext
) -> Graph:
    """Export `module` once and return its graph; `prefix` is cut from the front of every parameter's name.

    Raises CaptureError naming the operator or the line of the model at which torch.export stopped.
    """
    try:
        with foreign_code(), evaluating(module), torch.no_grad(), patches() as rows, quiet(), uncached():
            program, bounds = export_within_bounds(module, contract)
            traced = count_calls(program)
            simple = is_simple(program)
            if not simple:
                program = program.run_decompositions({})
    except ForeignError as error:
        raise CaptureError(explain_failure(module, error.error)) from error.error
    dense = () if rows is None else tuple(dict.fromkeys(rows.used))
    made = (
        Cleanup("dense_rows", f"rows picked by value traced as all rows: {', '.join(dense)}" if dense else ""),
        Cleanup("export", describe_export(traced, bounds)),
        Cleanup("decompose", "" if simple else f"traced again in functional form: {count_calls(program):,} calls"),
    )
    graph = normalise(module, program, contract, prefix, made)
    graph = replace(graph, source=replace(graph.source, dense_rows=dense))
    return graph.note(note_bounds(bounds)) if bounds else graph


def normalise(
    module: nn.Module, program: ExportedProgram, contract: Contract, prefix: str, made: tuple[Cleanup, ...]
) -> Graph:
    """An exported program as a graph; `made` says how the program was made."""
    reader = ProgramReader(module, program, contract, prefix)
    draft = reader.read()
    names = contract.outputs or tuple(f"output.{i}" for i in range(len(reader.returned())))
    cleaned, done = clean(draft, tensor_names(module, prefix))
    if len(names) != len(reader.returned()):
        count = len(reader.returned())
        raise CaptureError(f"the model returned {count} tensors where the contract names {len(names)}")
    sizes = f"{reader.sizes_read:,} computations of sizes read as {len(reader.sizes):,}" if reader.sizes_read else ""
    cleanups = (*made, Cleanup("name_sizes", sizes), *done)
    return Graph(cleaned, tuple(contract.inputs), names, Source(changes=tuple(draft.changed)), cleanups=cleanups)


def count_calls(program: ExportedProgram) -> int:
    return sum(node.op == "call_function" for node in program.graph.nodes)


def describe_export(calls: int, bounds: Mapping[str, int]) -> str:
    sizes = "".join(f", for {name} up to {count:,}" for name, count in bounds.items())
    return f"{calls:,} calls traced{sizes}"


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and its parts back into the mode that each had."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Trace without torch's messages and without garbage collection."""
    with quiet_torch(), uncollected():
        yield


def uncached() -> contextlib.AbstractContextManager[object]:
    """Export without torch's cache of fake results: with symbolic sizes nearly all are new, and are computed twice."""
    return torch._dynamo.config.patch(fake_tensor_cache_enabled=False)  # type: ignore[no-any-return]
