"""`sweep`: one model cut to many sizes by one method, each a plan with its weights, and the curve of them."""

import dataclasses
import datetime
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from graphprune.budget.quantities import Parameters
from graphprune.budget.targets import Target, make_target
from graphprune.comparison.cells import content, hash_of
from graphprune.comparison.methods import printable
from graphprune.compiler.compile import capture_for_work
from graphprune.compiler.deliver import read_text
from graphprune.compiler.request import asked_of
from graphprune.data.calibration import Text, count_bytes, split_end
from graphprune.data.sources import look_at_text, shown_source
from graphprune.data.tokens import encode
from graphprune.errors import DataError, GraphpruneError, UsageError
from graphprune.frontend.places import look_at
from graphprune.ir.graph import Graph
from graphprune.ir.verification import verify
from graphprune.json_data import Json
from graphprune.pipeline.recipes import Recipe
from graphprune.pipeline.resolution import resolve_recipe
from graphprune.pipeline.stages import check_target, expand
from graphprune.progress import Progress, no_progress
from graphprune.reporting.privacy import last_name
from graphprune.running.devices import choose_device, make_current
from graphprune.sweeping.kept import (
    DENSE,
    opened,
    read_point,
    read_points,
    write_curve,
)
from graphprune.sweeping.options import SweepOptions
from graphprune.sweeping.points import Scene, make_point, measure_source
from graphprune.sweeping.schema import Curve, Point
from graphprune.threads import threads_for


def check_sweep(options: SweepOptions) -> Recipe:
    """The recipe, as far as names and files tell. Raises GraphpruneError for what is wrong with them."""
    recipe = resolve_recipe(options.compilation(options.points[0]), plugins=False)
    if recipe.recover is not None:
        raise UsageError(
            f"the method {recipe.name} trains, and sweep only cuts; take one that does not, such as evolve or "
            "adapt-pruner-ls, or add --set recover=null"
        )
    if "vocabulary" in recipe.prune.kinds:
        raise UsageError("sweep cuts no tokens, since every size would have a tokenizer of its own; use compile")
    look_at(options.model, True, options.trust_remote_code)
    for text in filter(None, (options.data, options.held_out)):
        look_at_text(text, options.field)
    return recipe


def sweep(options: SweepOptions, progress: Progress = no_progress) -> Curve:
    """Cut a model to every size that OUT does not have yet, measure each, and write the page.

    Scores are made once, and libraries of levels are shared; a sweep that was stopped goes on, and one of other sizes
    adds to those that are there. Raises UsageError, BudgetError before anything is cut, other GraphpruneErrors.
    """
    check_sweep(options)
    assert options.out is not None
    out = options.out
    recipe = resolve_recipe(options.compilation(options.points[0]))
    with opened(out, options.model, request_of(options, recipe), options.restart):
        device = choose_device(options.device)
        make_current(device)
        source = capture_for_work(options.model, options.trust_remote_code, progress=progress)
        verify(source)
        with threads_for(source.parameter_count()):
            targets = {text: target_of(source, recipe, text) for text in options.points}
            text = text_of(options, recipe, source, progress)
            scene = Scene(options, out, recipe, source, text, device, progress)
            dense = read_point(out / DENSE) or measure_source(scene)
            known = read_points(out)
            for name, target in targets.items():
                if name not in known:
                    known[name] = make_point(scene, name, target)
            curve = make_curve(scene, dense, list(known.values()))
            write_curve(out, curve)
    return curve


def request_of(options: SweepOptions, recipe: Recipe) -> Mapping[str, Json]:
    """All that the points depend on but their sizes."""
    folder = look_at(options.model, True, options.trust_remote_code)
    made = recipe.model_dump(mode="json", exclude={"name", "summary", "source"})
    return {
        "version": version("graphprune"),
        "model": content(str(folder)),
        "method": hash_of(made),
        "data": content(options.data),
        "held-out text": content(options.held_out) if options.held_out else None,
        "field": options.field,
        "bytes": options.text_bytes,
        "seed": options.seed,
    }


def target_of(source: Graph, recipe: Recipe, text: str) -> Target:
    """The target of a size. Raises UsageError, BudgetError naming it."""
    try:
        target = make_target(Parameters(), source, text)
        check_target(source, expand(recipe, target))
    except GraphpruneError as error:
        raise type(error)(f"at {text}: {error}") from error
    return target


def text_of(options: SweepOptions, recipe: Recipe, source: Graph, progress: Progress) -> Text:
    """The text, of which as much is held out as every model is measured on. Raises UsageError, DataError."""
    text = read_text(asked_of(options.compilation(options.points[0])), recipe, source, True, progress)
    if text is None or text.tokenizer is None:
        raise UsageError("sweep measures bits per byte of a text, so it takes language models with a tokenizer")
    held, _ = split_end(list(text.documents), max(0, count_bytes(text.documents) - options.text_bytes))
    found = dataclasses.replace(
        text, held_out=encode(text.tokenizer, held), held_out_bytes=count_bytes(held), documents=tuple(held)
    )
    if len(found.held_out) < 2:
        raise DataError("the held-out text has no two tokens; give more with --held-out")
    return found


def make_curve(scene: Scene, dense: Point, points: list[Point]) -> Curve:
    options = scene.options
    held = options.held_out or f"the end of {printable(shown_source(options.data))}"
    return Curve(
        schema_version=1,
        command=command_line(options),
        model=model_name(options.model),
        method=scene.recipe.name,
        recipe=scene.recipe.model_dump_json(exclude={"summary", "source"}),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        versions={name: version(name) for name in ("graphprune", "torch", "transformers")},
        data=printable(shown_source(options.data)),
        held_out=printable(shown_source(held)) if options.held_out else held,
        text_bytes=scene.text.held_out_bytes,
        dense=dense,
        points=sorted(points, key=lambda point: -point.parameters),
    )


def model_name(model: str) -> str:
    """A hub id, or the last part of a path."""
    return printable(last_name(model) if Path(model).expanduser().exists() else model)


def command_line(options: SweepOptions) -> str:
    """The command of the last sweep into OUT; files by their last names."""
    words = ["graphprune", "sweep", model_name(options.model), "-o", "OUT", "--targets", str(options.targets)]
    words += ["--method", last_name(options.method) if "/" in options.method else options.method]
    words += ["--effort", options.effort] if options.effort else []
    words += ["--prune", ",".join(options.prune)] if options.prune else []
    words += ["--round-to", str(options.round_to)] if options.round_to else []
    words += ["--for", options.runtime] if options.runtime else []
    words += [word for each in options.settings for word in ("--set", each)]
    words += ["--data", shown_source(options.data)]
    words += ["--held-out", shown_source(options.held_out)] if options.held_out else []
    return printable(shlex.join(words))
