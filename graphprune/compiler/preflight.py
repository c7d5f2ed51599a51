"""Preflight: what can be seen of a request before torch is imported and anything is captured."""

import os
from pathlib import Path

from graphprune.artefacts.outputs import check_output
from graphprune.compiler.publishing import check_push, read_push
from graphprune.compiler.tracking import check_tracker
from graphprune.data.sources import look_at_text
from graphprune.errors import UsageError, first_line
from graphprune.frontend.places import look_at
from graphprune.ir.plan import read_plan
from graphprune.pipeline.declared import make_declared
from graphprune.pipeline.options import ApplyOptions, CompileOptions
from graphprune.pipeline.own_text import own_text
from graphprune.pipeline.resolution import backends_for, resolve_recipe
from graphprune.processes import is_first


def check_request(options: CompileOptions) -> None:
    """Raise a GraphpruneError for what is wrong with a compilation as far as its files and names tell.

    Names of methods and plug-ins, the place of the result, the model's folder, the beginning of the text.
    """
    recipe = resolve_recipe(options, plugins=False)
    check_backends(backends_for(recipe, options.backends))
    check_tracker(options.tracker)
    push = read_push(options.push_to_hub, options.private, options.overwrite)
    if options.out is not None and not options.dry_run:
        check_place(options.out, options.overwrite, options.model)
    look_at(options.model, not options.dry_run, options.trust_remote_code)
    if not options.dry_run:
        check_texts(options)
        if push is not None and is_first():
            check_push(push)


def check_texts(options: CompileOptions) -> None:
    """Open the texts; what the model is to write itself is not there yet. Raises UsageError, DataError."""
    asked = (options.data if own_text(options.data) is None else None, options.held_out)
    for text in filter(None, asked):
        look_at_text(text, options.field)


def check_replay(options: ApplyOptions) -> None:
    """The same for the replay of a plan."""
    check_backends(options.backends)
    check_place(options.out, options.overwrite, options.model)
    read_plan(options.plan)
    look_at(options.model, True, options.trust_remote_code)


def check_backends(specs: tuple[str, ...]) -> None:
    """Raise UsageError for a backend that is not installed, or has no such option."""
    if not specs:
        raise UsageError("--backends names none; `graphprune list backends` has all")
    for spec in specs:
        make_declared("backends", spec)


def check_place(out: Path, overwrite: bool, model: str) -> None:
    """Raise UsageError where no folder can be made, or where it would be one that the command runs in."""
    try:
        place, here = out.expanduser().resolve(), Path.cwd()
        if place == here or place in here.parents:
            raise UsageError(f"{out} is the folder that the command runs in, or one around it; give a new one: -o OUT")
        around = next(folder for folder in place.parents if folder.exists())
        check_output(out, overwrite, model)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{str(out)[:60]!r} can be no folder: {first_line(error)[:80]}; give another -o OUT"
        ) from error
    if not around.is_dir() or not os.access(around, os.W_OK):
        raise UsageError(f"nothing can be written in {around}; give another -o OUT")
