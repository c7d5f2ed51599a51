"""Resolution: which recipe the options of a compilation come to."""

import dataclasses
from collections.abc import Sequence

from graphprune.budget.installed import load_backend
from graphprune.errors import UsageError
from graphprune.pipeline.declared import make_declared
from graphprune.pipeline.options import WRITTEN, CompileOptions, explained_options, option_name
from graphprune.pipeline.recipes import Change, Recipe, parse_settings, read_recipe
from graphprune.spec import option_types, parse_spec, print_spec, split_spec
from graphprune.suggestions import AUTO


def resolve_recipe(options: CompileOptions, plugins: bool = True) -> Recipe:
    """The recipe that `method` names with the options on top. Raises UsageError: a wrong name costs nothing.

    Without `plugins` they are known by what their sources declare: nothing of them is imported.
    """
    changes = list(parse_settings(options.settings))
    for name, option in explained_options().items():
        value = getattr(options, name)
        if option.sets is not None and value not in (None, False, AUTO):
            shown = "" if value is True else f" {','.join(map(str, value)) if isinstance(value, tuple) else value}"
            value = None if name == "compensation" and value == "none" else value
            changes.append(Change(option.sets, value, f"{option_name(name)}{shown}"))
    recipe = read_recipe(options.method, changes, plugins)
    if options.effort is not None:
        spec = with_effort(recipe.prune.allocation, options.effort, plugins)
        changes.append(Change("prune.allocation", spec, f"--effort {options.effort}"))
        recipe = read_recipe(options.method, changes, plugins)
    options.require_target(recipe.cuts_units)
    if plugins:
        check_forms(recipe, backends_for(recipe, options.backends))
    if recipe.recover is not None and "tokens" not in recipe.recover:
        raise UsageError(f"the method {recipe.name} does not say for how long to train; give --train-tokens")
    return recipe


def backends_for(recipe: Recipe, asked: Sequence[str]) -> tuple[str, ...]:
    """The backends of a run: those of the runtime that a recipe is for, or what was asked for and its form beside it.

    Raises UsageError where its form was asked for as it does not read it.
    """
    runtime = recipe.prune.wanted
    if runtime is None:
        return tuple(asked)
    if tuple(asked) == WRITTEN:
        return runtime.backends
    name, options = split_spec(runtime.backends[-1])
    given = next((spec for spec in asked if split_spec(spec)[0] == name), None)
    if given is None:
        return (*asked, runtime.backends[-1])
    other = split_spec(given)[1]
    if any(other.get(key) != value for key, value in options.items()):
        raise UsageError(f"--for {runtime.name} writes {runtime.backends[-1]}, not {given}; leave {name} out")
    return tuple(asked)


def check_forms(recipe: Recipe, backends: Sequence[str]) -> None:
    """Raise UsageError where a method adds operators and the result is to have a form that has no place for them."""
    parts = [parse_spec("passes", spec) for spec in (*recipe.before, *recipe.after)]
    parts += [parse_spec("compensation", recipe.prune.compensation)] if recipe.prune.compensation else []
    parts += [parse_spec("training", recipe.learner)] if recipe.learner is not None else []
    adding = next((part.name for part in parts if part.reshapes), None)
    if adding is None:
        return
    told = f"the method {recipe.name} adds operators to the model ({adding})"
    if recipe.prune.equal_layers:
        asked = "--uniform" if recipe.prune.uniform else f"--for {recipe.prune.runtime}"
        raise UsageError(f"{asked}: {told}, which no stock checkpoint has; leave {asked} out")
    fixed = next((spec for spec in backends if load_backend(spec).fixed), None)
    if fixed is not None:
        raise UsageError(f"--backends {fixed}: {told}, which this format has no place for; leave {fixed} out")


def with_effort(spec: str, effort: str, plugins: bool = True) -> str:
    """The spec of an allocation that searches, with another effort. Raises UsageError for one that does not search."""
    allocation = parse_spec("allocation", spec) if plugins else make_declared("allocation", spec)
    if allocation is None:
        return spec
    if "effort" not in option_types(type(allocation)):
        raise UsageError(
            f"--effort is for methods that search, such as --method evolve; {split_spec(spec)[0]} does not search"
        )
    return print_spec(dataclasses.replace(allocation, effort=effort))
