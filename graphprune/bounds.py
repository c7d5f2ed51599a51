"""Bounds: what the fields of a dataclass of options may be, said once in their types and checked here.

`Annotated[int, Ge(1)]` is a number of 1 or more, also for pydantic; a `Literal` is one of its choices.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from graphprune.errors import UsageError

Whole = Annotated[int, Ge(0)]
Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Bound = Ge | Gt | Le | Lt


class Limits(NamedTuple):
    """What a field may hold: its choices where it has any, and the bounds of its numbers."""

    choices: tuple[Any, ...]
    bounds: tuple[Bound, ...]


class Wrong(NamedTuple):
    """A field with a value that it may not hold."""

    name: str
    value: Any
    limits: Limits


def limits_of(cls: type) -> Mapping[str, Limits]:
    """The limits of every field that has any."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {field.name: read_limits(hints[field.name]) for field in dataclasses.fields(cls)}
    return {name: limits for name, limits in found.items() if limits.choices or limits.bounds}


def read_limits(annotation: Any) -> Limits:
    """The limits that a type says; those of a union are its members' together."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return Limits(arguments, ())
    if origin is Annotated:
        inner = read_limits(arguments[0])
        own = tuple(each for each in arguments[1:] if isinstance(each, Bound))
        return Limits(inner.choices, (*inner.bounds, *own))
    if origin in (Union, types.UnionType):
        members = [read_limits(each) for each in arguments]
        return Limits(sum((m.choices for m in members), ()), sum((m.bounds for m in members), ()))
    return Limits((), ())


def wrong_fields(options: object) -> Iterator[Wrong]:
    """The fields of an instance that hold what they may not; None is left to the types."""
    for name, limits in limits_of(type(options)).items():
        value = getattr(options, name)
        if is_number(value) and limits.bounds:
            if not all(holds(value, bound) for bound in limits.bounds):
                yield Wrong(name, value, limits)
        elif value is not None and limits.choices and value not in limits.choices:
            yield Wrong(name, value, limits)


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def holds(value: float, bound: Bound) -> bool:
    """Say whether a number keeps to a bound; what is not finite keeps to none."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    match bound:
        case Ge(least):
            return bool(value >= least)  # type: ignore[operator]
        case Gt(least):
            return bool(value > least)  # type: ignore[operator]
        case Le(most):
            return bool(value <= most)  # type: ignore[operator]
        case Lt(most):
            return bool(value < most)  # type: ignore[operator]


def describe_bounds(bounds: tuple[Bound, ...]) -> str:
    """What a number may be: `1 or more`, `above 0`, `from 0 to 1`."""
    match bounds:
        case (Ge(least),):
            return f"{least} or more"
        case (Gt(least),):
            return f"above {least}"
        case (Ge(least), Le(most)):
            return f"from {least} to {most}"
        case (Gt(least), Le(most)):
            return f"above {least} and up to {most}"
        case (Ge(least), Lt(most)):
            return f"from {least} to below {most}"
    return " and ".join(map(str, bounds))


def require_limits(options: object, owner: str) -> None:
    """Raise UsageError for a field that holds what it may not."""
    for name, value, limits in wrong_fields(options):
        if limits.bounds and is_number(value):
            raise UsageError(f"{name} of {owner} is {describe_bounds(limits.bounds)}, not {str(value)[:40]}")
        *others, last = map(str, limits.choices)
        listed = f"{', '.join(others)} or {last}" if others else last
        raise UsageError(f"{owner} takes {name}={listed}, not {value}")
