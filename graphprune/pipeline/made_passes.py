"""Passes from options as a recipe has them, and the pattern of zeros that a learner takes over from `sparsify`."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from graphprune import registry
from graphprune.errors import UsageError
from graphprune.spec import build, option_types, parse_spec, print_spec, print_value, split_spec

_PATTERN, _METHOD = "pattern", "method"


def option_text(value: Any) -> str:
    """A YAML value as a spec writes it; 3e-4, which is text in YAML, is the number."""
    return value if isinstance(value, str) and re.fullmatch(r"[\w.+-]+", value) else print_value(value)


def make_recover(options: Mapping[str, Any]) -> Any:
    """The pass `recover` with these options."""
    return make_pass("recover", options)


def make_pass(name: str, options: Mapping[str, Any]) -> Any:
    """The pass of this name with options as a recipe has them."""
    return build(registry.load("passes", name), name, {key: option_text(value) for key, value in options.items()})


def learns_pattern(learner: type) -> bool:
    """Whether a learner makes weights sparse itself: it has an option for the pattern, as `sparsify` has."""
    return _PATTERN in option_types(learner)


def with_pattern(
    recover: Mapping[str, Any], sparsify: Mapping[str, Any] | None, label: Callable[[str], str]
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """The options of `recover` and `sparsify`; where the learner learns a pattern, those of the second are its own.

    With a `method` of sparsify the pass runs too, and the learner goes on from what it leaves; with null, or without,
    it begins with dense weights. Raises UsageError for options that are of solvers then.
    """
    spec = recover.get("learner")
    if not isinstance(spec, str) or sparsify is None:
        return recover, sparsify
    name, own = split_spec(spec)
    cls = registry.load("training", name)
    if not learns_pattern(cls):
        return recover, sparsify
    given = {key: value for key, value in sparsify.items() if key != _METHOD}
    solved = sparsify.get(_METHOD) is not None
    other = next((key for key in given if key not in option_types(cls)), None)
    if other is not None and not solved:
        raise UsageError(
            f"{label(f'sparsify.{other}')}: {name} begins with dense weights and has no {other}; name a "
            "sparsify.method that it is to go on from"
        )
    same = {key: option_text(value) for key, value in given.items() if key in option_types(cls)}
    learner = build(cls, name, {**own, **same})
    return {**recover, "learner": print_spec(learner)}, sparsify if solved else None


def check_learner(spec: str, stages: int, cuts_units: bool, label: Callable[[str], str]) -> None:
    """Raise UsageError for stages of a learner that makes weights sparse, and for one that adds what no target counts.

    `spec` is that of `recover`, in a recipe that cuts units, or does not, in so many stages.
    """
    learner = parse_spec("training", spec)
    if stages > 1 and (learns_pattern(type(learner)) or learner.adds_tokens):
        does = "appends tokens" if learner.adds_tokens else "makes weights sparse"
        raise UsageError(f"{label('stages')}: {learner.name} {does} in one training; leave stages out")
    if cuts_units and (learner.reshapes or learner.adds_tokens):
        raise UsageError(
            f"{label('recover.learner')}: {spec[:60]} adds parameters behind the cut, which no target counts; train so "
            "first, and cut the result by a second compilation"
        )
