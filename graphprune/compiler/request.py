"""Requests: what the options of a compilation mean, resolved and checked before any work is done."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from graphprune.budget.backend import Backend
from graphprune.compiler.examples import reads_examples
from graphprune.errors import UsageError
from graphprune.frontend.parts import foresee_part
from graphprune.ir.graph import Graph
from graphprune.models.modalities import describe_part
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import Recipe
from graphprune.pipeline.stages import needs_text
from graphprune.reporting.work import Asked
from graphprune.running.devices import multiplies_bf16, unused_gpu
from graphprune.suggestions import AUTO

TEXTLESS = "magnitude"


def asked_of(options: CompileOptions) -> Asked:
    """What the report says of the options."""
    beside = None if options.only_vocabulary else options.vocabulary
    return Asked(
        options.model,
        options.target,
        beside,
        options.data,
        options.held_out,
        options.seed,
        options.part,
        options.field,
    )


def foresee(model: str, part: str, trust_remote_code: bool) -> None:
    """Raise UsageError where a configuration says that its graph will be a part that was not asked for."""
    found = foresee_part(model, trust_remote_code) if part == "whole" else None
    if found is not None:
        raise refused_part(*found)


def require_part(graph: Graph, part: str) -> None:
    """Raise UsageError where a graph is a part of its model that was not asked for."""
    source = graph.source
    if source.left_out and part == "whole":
        raise refused_part(source.architecture, source.left_out, source.whole, graph.parameter_count())


def refused_part(architecture: str, left_out: tuple[str, ...], whole: int, captured: int | None = None) -> UsageError:
    said = describe_part(architecture, left_out, captured, whole)
    return UsageError(f"{said}; pass --part text to make that alone smaller")


def with_precision(recipe: Recipe, options: CompileOptions, device: torch.device) -> Recipe:
    """The recipe with what its training multiplies in: as asked for, as it says, or what suits the device."""
    recover = recipe.recover
    if recover is None or (options.precision == AUTO and "precision" in recover):
        return recipe
    narrow = multiplies_bf16(device) if options.precision == AUTO else options.precision == "bf16"
    if not narrow and options.precision == AUTO:
        return recipe
    return recipe.model_copy(update={"recover": {**recover, "precision": "bf16" if narrow else "none"}})


def without_text(recipe: Recipe, options: CompileOptions, graph: Graph) -> Recipe:
    """The recipe, with units ranked by magnitude where the default looks at text and the model is none that reads it.

    A method that was asked for is not exchanged.
    """
    chosen = options.method != CompileOptions.method or options.importance is not None or options.settings
    if chosen or graph.source.kind == "decoder" or reads_examples(graph, options.data) or not needs_text(recipe):
        return recipe
    prune = replace(recipe.prune, importance=TEXTLESS)
    return recipe.model_copy(update={"prune": prune})


def tuned_backends(recipe: Recipe, backends: Sequence[Backend]) -> tuple[Backend, ...]:
    """The backends for the weights that a recipe leaves. Raises UsageError where one cannot write them as they are."""
    block = recipe.tuned_block
    return tuple(backend.tuned(block) if block else backend for backend in backends)


def text_notes(recipe: Recipe, asked: Recipe) -> tuple[str, ...]:
    """What the user should know where `recipe` was taken for what was asked."""
    if recipe.prune.importance == asked.prune.importance:
        return ()
    return (f"units were ranked by {TEXTLESS}: the method {asked.name} looks at text, which this model does not read",)


def notes_of(given: CompileOptions, options: CompileOptions, recipe: Recipe, asked: Recipe) -> tuple[str, ...]:
    """What the user should know of where `given` options and the `asked` recipe came to others."""
    own = (
        ()
        if given.data == options.data
        else (f"the text is what the model wrote itself ({given.data}): {options.data}",)
    )
    return (*own, *text_notes(recipe, asked), *runtime_notes(recipe))


def runtime_notes(recipe: Recipe) -> tuple[str, ...]:
    """How what was made for a runtime is opened there, and how that is known."""
    runtime = recipe.prune.wanted
    return (f"for {runtime.name}: {runtime.opened}; known {runtime.checked}",) if runtime else ()


def device_notes(recipe: Recipe, options: CompileOptions, device: torch.device) -> tuple[str, ...]:
    """What the user should know of where and in what type the work was done."""
    unused = unused_gpu(device)
    notes = () if unused is None else (unused,)
    if options.precision == "bf16" and recipe.recover is None:
        notes = (*notes, f"--precision is of training, and {recipe.name} does not train: scores are made in float32")
    return notes
