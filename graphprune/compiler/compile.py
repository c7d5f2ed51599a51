"""`compile`: from a source model and a size to a folder with a checked model in it."""

import contextlib
import functools
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from graphprune.analysis.analyse import analyze
from graphprune.artefacts.export import load_backends
from graphprune.artefacts.staging import staging
from graphprune.budget.backend import Backend
from graphprune.compiler.deliver import finish, read_text
from graphprune.compiler.disk import bytes_to_write, require_disk
from graphprune.compiler.dry_run import dry_run
from graphprune.compiler.examples import read_examples
from graphprune.compiler.goal import find_aim
from graphprune.compiler.own_text import with_own_text
from graphprune.compiler.preflight import check_request
from graphprune.compiler.publishing import publish
from graphprune.compiler.request import (
    asked_of,
    device_notes,
    foresee,
    notes_of,
    require_part,
    tuned_backends,
    with_precision,
    without_text,
)
from graphprune.compiler.tracking import tracked
from graphprune.compiler.vocabulary_start import (
    Beginning,
    begin,
    planned_vocabulary,
)
from graphprune.data.calibration import Text, held_out_part, measured_part, training_part, watched_part
from graphprune.data.fingerprints import fingerprint
from graphprune.encoders.examples import Examples
from graphprune.errors import CaptureError
from graphprune.frontend.places import locate
from graphprune.frontend.room import describe_room, read_room, require_room, stays_in_file
from graphprune.frontend.source import READING, capture
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Lineage, Step
from graphprune.ir.plan import read_plan
from graphprune.ir.verification import verify
from graphprune.pipeline.options import ApplyOptions, CompileOptions, work_folder
from graphprune.pipeline.passes import Context, Pass, run_passes
from graphprune.pipeline.recipes import Recipe
from graphprune.pipeline.resolution import backends_for, resolve_recipe
from graphprune.pipeline.run_state import earlier_seconds, metrics_files, open_run
from graphprune.pipeline.run_text import run_again
from graphprune.pipeline.stages import check_target, expand
from graphprune.processes import Spare, is_first, leave, meet, process_count
from graphprune.progress import Progress, no_progress
from graphprune.pruning.interfaces import Allocation, Importance
from graphprune.reporting.results import Result
from graphprune.reporting.work import Asked, Work
from graphprune.rewriting.solved_weights import apply_solved, read_solved
from graphprune.running.devices import choose_device, describe_device, make_current
from graphprune.spec import parse_spec
from graphprune.threads import threads_for
from graphprune.weights.stored import any_stored, store


def compile_model(
    options: CompileOptions, progress: Progress = no_progress, began: float | None = None, spare: Spare | None = None
) -> Result:
    """Prune a model to a size by a recipe, write checkpoint and ONNX model, check both in a fresh process, and measure.

    OUT appears complete or not at all. A run that trains keeps its state beside OUT and goes on from there when it is
    started again. Raises UsageError for a request that cannot be met, another GraphpruneError where a stage fails.
    With `dry_run` only the configuration is read and nothing is written. Of several processes all train and the first
    does the rest. `began` is when the command began, `spare` a process to check in, where the caller has one.
    """
    began = time.time() if began is None else began
    check_request(options)
    recipe = resolve_recipe(options)
    backends = tuned_backends(recipe, load_backends(backends_for(recipe, options.backends)))
    if options.dry_run:
        return dry_run(options, recipe, backends, progress)
    assert options.out is not None
    device = choose_device(options.device)
    make_current(device)
    recipe = with_precision(recipe, options, device)
    if not is_first():
        return follow(options, recipe, backends, device)
    if device.type != "cpu":
        progress(f"computing on {describe_device(device)}", 0, 0)
    read = (options.model, options.trust_remote_code, options.part, progress, options.memory, device)
    with staging(options.out, options.overwrite, options.model) as folder:
        source = capture_for_work(*read)
        check_source(source, backends)
        read_from = with_own_text(options, source, progress)
        asked, recipe = recipe, without_text(recipe, options, source)
        with threads_for(source.parameter_count()), run_folder(read_from, recipe, source, progress) as kept:
            began -= earlier_seconds(kept, began) if kept is not None else 0.0
            aim = find_aim(options, recipe, source, backends, kept, progress)
            require_disk(folder, options.out, bytes_to_write(source, backends, aim.target))
            meet_followers(recipe)
            with begin(read_from, aim, source, progress) as start:
                graph, method = run_method(read_from, start, kept, device, progress)
                leave()
                work = Work(
                    asked_of(read_from),
                    aim.recipe,
                    source,
                    analyze(source),
                    graph,
                    measured_part(method.text, source.parameter_count()) if method.text else None,
                    metrics_files(kept) if kept else (),
                    aim.target,
                    aim.measured,
                    start.vocabulary,
                    device,
                    (*notes_of(options, read_from, recipe, asked), *device_notes(aim.recipe, options, device)),
                    began,
                    memory=options.memory if device.type == "cpu" else None,
                    examples=method.examples,
                    run=run_again(options),
                )
                result = finish(work, backends, folder, progress, spare)
    return completed(replace(result, out=options.out), options, keeps_state(recipe, source), progress)


def completed(result: Result, options: CompileOptions, kept: bool, progress: Progress) -> Result:
    """The result, when OUT is whole: what the run has `kept` goes, and OUT is uploaded where that is asked for."""
    assert options.out is not None
    if kept:
        shutil.rmtree(work_folder(options.out), ignore_errors=True)
    return replace(result, notes=(*result.notes, *publish(options, progress)))


def check_source(source: Graph, backends: Sequence[Backend]) -> None:
    """Raise where a captured source is not whole, or where a backend has no place for what it is of."""
    verify(source)
    for backend in backends:
        backend.require_source(source)


def meet_followers(recipe: Recipe) -> None:
    """Let the other processes look into the folder of the run, which is this one's now."""
    if recipe.recover is not None:
        meet()


def follow(options: CompileOptions, recipe: Recipe, backends: Sequence[Backend], device: torch.device) -> Result:
    """What every process but the first does: prune and train along where there is training, and write nothing."""
    assert options.out is not None
    if recipe.recover is not None:
        source = capture_for_work(
            options.model, options.trust_remote_code, options.part, no_progress, options.memory, device
        )
        meet_followers(recipe)
        folder, read_from = work_folder(options.out), with_own_text(options, source, no_progress)
        with begin(read_from, find_aim(options, recipe, source, backends, folder), source, no_progress) as start:
            run_method(read_from, start, folder, device, no_progress)
            leave()
    return Result(None)


def run_method(
    options: CompileOptions,
    start: Beginning,
    folder: Path | None,
    device: torch.device,
    progress: Progress,
) -> tuple[Graph, "Prepared"]:
    """Run the passes that the recipe stands for; also return what they were given."""
    method = prepare_method(options, start, folder, device, progress)
    with tracked(options, progress) as track:
        context = replace(method.context, track=track)
        return as_made(start, run_passes(start.graph, method.passes, context)), method


@dataclass(frozen=True, eq=False)
class Prepared:
    """A method that is ready to run on a model: its passes, what they may ask for, and the text, or the examples of an
    encoder, that were read."""

    passes: tuple[Pass, ...]
    context: Context
    text: Text | None
    examples: Examples | None = None


def prepare_method(
    options: CompileOptions, start: Beginning, folder: Path | None, device: torch.device, progress: Progress
) -> Prepared:
    """The passes that the recipe stands for and their context, with the text read. Raises BudgetError, DataError."""
    recipe, source = start.aim.recipe, start.graph
    passes = expand(recipe, start.aim.target)
    check_target(source, passes)
    apart = recipe.recover is not None or recipe.learns or start.counted
    examples = read_examples(asked_of(options), recipe, source, progress)
    text = None if examples else read_text(asked_of(options), recipe, source, apart, progress)
    given = examples or text
    context = Context(
        calibration=given.batches if given else None,
        draw=given.draw if given else None,
        loss=examples.loss if examples else None,
        epochs=examples.epochs if examples else None,
        held_out_name=held_out_part(options.data, options.held_out) if text else None,
        seed=options.seed,
        source=source,
        tokenizer=given.tokenizer if given else None,
        data=training_part(options.data, options.held_out) if given else None,
        held_out=watched_part(text, source.parameter_count()) if text else None,
        field=options.field,
        folder=folder,
        progress=progress,
        device=device,
        room=read_room(options.memory, device),
    )
    return Prepared(passes, context, text, examples)


def as_made(start: Beginning, graph: Graph) -> Graph:
    """What the passes made, with the plan that makes it from the source, and its weights as artefacts hold them."""
    graph = start.rooted(graph)
    return as_stored(graph) if start.aim.recipe.changes_weights else graph


def as_stored(graph: Graph) -> Graph:
    """The graph with new weights rounded to the source's type, in which every artefact holds them: bfloat16, say."""
    dtype = graph.source.dtype
    if dtype is None or not dtype.is_floating_point:
        return graph
    stored = any_stored(graph.tensors().values())
    rounded = dict[str, torch.nn.Parameter]()
    for name, parameter in graph.parameters().items():
        if any_stored([parameter]):
            continue  # nobody changed it
        narrow = parameter.detach().to(dtype)
        if not bool(torch.isfinite(narrow).all()):
            return graph  # float16 holds nothing above 65504
        wide = store(narrow, parameter.dtype) if stored else narrow.to(parameter.dtype)
        rounded[name] = torch.nn.Parameter(wide, parameter.requires_grad)
    return graph.with_tensors(rounded)


@contextlib.contextmanager
def run_folder(options: CompileOptions, recipe: Recipe, source: Graph, progress: Progress) -> Iterator[Path | None]:
    """The folder in which a run that takes long keeps its state; None for others, which are soon done again."""
    assert options.out is not None
    if not keeps_state(recipe, source):
        yield None
        return
    folder = work_folder(options.out)
    with open_run(folder, describe_run(options, recipe, source), options.restart) as going_on:
        progress(f"going on from {folder}" if going_on else f"keeping the state of this run in {folder}", 0, 0)
        yield folder


def keeps_state(recipe: Recipe, source: Graph) -> bool:
    """Whether a run takes so long that it keeps what it needs to go on: one that trains, or searches by itself, or has
    a model that stays in its file, or solves every weight anew for a pattern."""
    allocation: Allocation = parse_spec("allocation", recipe.prune.allocation)
    importance: Importance = parse_spec("importance", recipe.prune.importance)
    searches, alone = allocation.searches or importance.searches, process_count() == 1
    long = searches or recipe.solves_patterns or any_stored(source.tensors().values())
    return recipe.recover is not None or recipe.learns or (alone and long)


def describe_run(options: CompileOptions, recipe: Recipe, source: Graph) -> dict[str, Any]:
    """All that the weights of the result depend on, as plain data; not where they are computed."""
    return {
        "model": {"name": options.model, "files": dict(source.source.file_hashes)},
        "target": " ".join(options.target),
        "round_to": options.round_to,
        "vocabulary": options.vocabulary,
        "seed": options.seed,
        "data": fingerprint(options.data),
        "field": options.field,
        "held_out": fingerprint(options.held_out) if options.held_out else None,
        "recipe": recipe.model_dump(mode="json", exclude={"summary", "source"}),
    }


def apply_plan(
    options: ApplyOptions, progress: Progress = no_progress, began: float | None = None, spare: Spare | None = None
) -> Result:
    """Cut a model by a saved plan and write it like `compile_model`; the same plan gives the same weights.

    A plan that `sweep` wrote also names the weights that were solved for it.
    """
    began = time.time() if began is None else began
    plan, solved = read_plan(options.plan), read_solved(options.plan)
    backends = load_backends(options.backends)
    with staging(options.out, options.overwrite, options.model) as folder:
        source = capture_for_work(options.model, options.trust_remote_code, options.part, progress, options.memory)
        check_source(source, backends)
        with threads_for(source.parameter_count()), planned_vocabulary(source, plan) as (start, cut):
            graph = replace(apply_solved(source, plan, solved), source=start.source)
            asked = Asked(options.model, ("--target-params", str(graph.parameter_count())))
            step = Step(f"apply{{plan={options.plan.name}}}", None, source.parameter_count(), graph.parameter_count())
            graph = replace(graph.record(step), lineage=Lineage(plan))
            work = Work(
                asked,
                None,
                source,
                analyze(source),
                graph,
                None,
                vocabulary=cut,
                began=began,
                solved=solved is not None,
                memory=options.memory,
            )
            result = finish(work, backends, folder, progress, spare)
    return replace(result, out=options.out)


def capture_for_work(
    model: str,
    trust_remote_code: bool,
    part: str = "whole",
    progress: Progress = no_progress,
    memory: str | None = None,
    device: torch.device | None = None,
) -> Graph:
    """Capture in float32: half-precision weights are exact in it, and processors compute it well.

    What is too large for the memory of the device, or of the processor, stays in its file. Raises UsageError where the
    graph is the text model of a whole that takes more, and nobody asked for it.
    """
    progress(READING)
    foresee(model, part, trust_remote_code)
    folder, _ = locate(model, True, trust_remote_code)
    stored = stays_in_file(folder, memory, device)
    if stored:
        require_room(folder, memory, device)
    read = functools.partial(capture, model, trust_remote_code=trust_remote_code, dtype=torch.float32)
    try:
        graph = read(stored=stored, progress=progress)
    except CaptureError:
        if not stored:
            raise
        stored, graph = False, read(progress=progress)  # what cannot be traced without its weights may be with them
    require_part(graph, part)
    return graph.note(describe_room(folder, memory, device)) if stored else graph
