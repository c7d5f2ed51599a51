"""Requests: what the options of a compilation mean, resolved and checked before any work is done."""

from graphprune.errors import UsageError
from graphprune.options import AUTO, CompileOptions
from graphprune.recipes import Change, Recipe, parse_settings, read_recipe

# The options of the command line that stand for fields of a recipe.
_FIELDS = {
    "prune": "prune.kinds",
    "importance": "prune.importance",
    "allocation": "prune.allocation",
    "compensation": "prune.compensation",
    "steps": "prune.steps",
    "statistics": "prune.statistics",
    "floor": "prune.floor",
    "round_to": "prune.round_to",
    "min_units": "prune.min_units",
    "samples": "calibration.samples",
    "length": "calibration.length",
    "stages": "stages",
    "train_tokens": "recover.tokens",
    "lr": "recover.lr",
}


def resolve_recipe(options: CompileOptions) -> Recipe:
    """The recipe that `method` names with the options on top. Raises UsageError: a wrong name costs nothing."""
    changes = list(parse_settings(options.settings))
    for name, key in _FIELDS.items():
        value = getattr(options, name)
        if value is not None and value != AUTO:
            shown = ",".join(value) if isinstance(value, tuple) else value
            value = None if name == "compensation" and value == "none" else value
            changes.append(Change(key, value, f"--{name.replace('_', '-')} {shown}"))
    if options.uniform:
        changes.append(Change("prune.uniform", True, "--uniform"))
    recipe = read_recipe(options.method, changes)
    if recipe.recover is not None and "tokens" not in recipe.recover:
        raise UsageError(f"the method {recipe.name} does not say for how long to train; give --train-tokens")
    return recipe
