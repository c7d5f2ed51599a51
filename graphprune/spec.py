"""Specs: `taylor{order=1,aggregate=vector}` is a plug-in with its options, in one line that parses and prints back."""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, Union, cast, get_args, get_origin

from graphprune import registry
from graphprune.errors import UsageError
from graphprune.suggestions import did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_SPEC = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:\{(.*)\})?\s*", re.DOTALL)
_SPECIAL = set("{}[],='\"\\")
_FEW, _DEEPEST = 6, 100
_WORDS = {"none": None, "true": True, "false": False}

Value: TypeAlias = "str | int | float | bool | tuple[Value, ...] | None"
Plugin = TypeVar("Plugin")


@typing.runtime_checkable
class Named(Protocol):
    """A plug-in: it has a name, and its options are the fields of a dataclass."""

    @property
    def name(self) -> str: ...


def parse_spec(kind: registry.PluginKind, text: str) -> Any:
    """Return the instance that a spec describes. Raises UsageError or RegistryError.

    Options are the fields of the plug-in's dataclass; values are `true`, `false`, `none`, numbers, words, quoted text
    and lists in brackets. What is left out has its default.
    """
    name, options = split_spec(text)
    return build(registry.load(kind, name), name, options)


def split_spec(text: str) -> tuple[str, dict[str, str]]:
    """Return the name of a spec and the text of each option, not yet checked against any plug-in."""
    match = _SPEC.fullmatch(text)
    if match is None:
        raise UsageError(f"cannot read {text[:60]!r}; write a name and its options like taylor{{aggregate=vector}}")
    options: dict[str, str] = {}
    for part in split_list(match[2] or "", text):
        key, equals, value = part.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UsageError(f"cannot read the option {part.strip()!r} of {text!r}; write option=value")
        if key.strip() in options:
            raise UsageError(f"the option {key.strip()!r} occurs twice in {text!r}")
        options[key.strip()] = value.strip()
    return match[1], options


def split_list(text: str, whole: str) -> list[str]:
    """Split at the commas that are inside neither brackets nor quotes."""
    parts, depth, quote, start = [], 0, False, 0
    for position, character in scan(text):
        if character == "'":
            quote = not quote
        elif not quote and character in "[{":
            depth += 1
        elif not quote and character in "]}":
            depth -= 1
        elif not quote and depth == 0 and character == ",":
            parts.append(text[start:position])
            start = position + 1
    if depth != 0 or quote:
        raise UsageError(f"a bracket or a quote is not closed in {whole!r}")
    return [*parts, text[start:]] if text.strip() else []


def split_commas(text: str) -> tuple[str, ...]:
    """The items of a list separated by commas; a comma inside braces or brackets separates options, not items."""
    items, depth = [""], 0
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return tuple(item.strip() for item in items if item.strip())


def scan(text: str) -> Iterator[tuple[int, str]]:
    """The characters with their positions, an escaped one skipped."""
    position = 0
    while position < len(text):
        if text[position] == "\\":
            position += 1
        else:
            yield position, text[position]
        position += 1


def parse_value(text: str) -> Value:
    """Read one value: a list, quoted text, a word with a meaning, a number, or a plain word."""
    if text.count("[") > _DEEPEST:
        raise ValueError("it has lists in lists in lists, nested too deeply")
    if text.startswith("[") and text.endswith("]"):
        return tuple(parse_value(part.strip()) for part in split_list(text[1:-1], text))
    if len(text) > 1 and text.startswith("'") and text.endswith("'"):
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def build(cls: type[Plugin], name: str, options: Mapping[str, str]) -> Plugin:
    """Make the instance; every option must be a field and its value of the field's type."""
    fields, make = option_types(cls), _maker(cls)
    unknown = next((key for key in options if key not in fields), None)
    if unknown is not None:
        raise UsageError(
            f"{name} has no option {unknown[:40]!r}; {did_you_mean(unknown, list(fields))}{name_options(cls)}"
        )
    try:
        return make(**{key: read_option(text, fields[key], key) for key, text in options.items()})
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: {error}; {name_options(cls)}") from error


def _maker(cls: type[Plugin]) -> Callable[..., Plugin]:
    """A class as what it is called with, which its fields decide."""
    return cls


def read_option(text: str, annotation: object, key: str) -> object:
    """Read the text of one option as its field's type. Raises ValueError where it is none."""
    if get_origin(annotation) is Literal and text in get_args(annotation):
        return text  # a choice may be called none or true
    value = parse_value(text)
    if annotation is str and not isinstance(value, (str, tuple)):
        return text  # 6e8 is text where text is wanted
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}={text[:40]} is no finite number")
    if not fits(value, annotation):
        raise ValueError(f"{key}={text[:60]} is not {print_type(annotation)}")
    return convert(value, annotation)


def option_types(cls: type) -> dict[str, object]:
    """The options of a plug-in, which are the fields of its dataclass, with their types."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def name_options(cls: type) -> str:
    """The options of a plug-in by name, or where they are shown, for a message."""
    names = list(option_types(cls))
    listed = f"its options are {', '.join(names)}" if len(names) <= _FEW else "`graphprune list` shows its options"
    return listed if names else "it has no options"


def describe_options(cls: type) -> str:
    """One line: each option with its type and its default."""
    fields, hints = dataclasses.fields(cls), option_types(cls)
    rows = [f"{f.name} ({print_type(hints[f.name])}{print_default(f)})" for f in fields if f.init]
    return f"its options: {', '.join(rows)}" if rows else "it has no options"


def print_default(field: "dataclasses.Field[object]") -> str:
    value = default_of(field)
    return ", required" if value is dataclasses.MISSING else f", default {print_value(value)}"


def default_of(field: "dataclasses.Field[object]") -> object:
    """The default of a field, MISSING where there is none."""
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def fits(value: object, annotation: object) -> bool:
    """Say whether a parsed value is of a field's type; a whole number is a float too, but never a truth value."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin is Literal:
        return any(value == argument and type(value) is type(argument) for argument in arguments)
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin in (tuple, list):
        return isinstance(value, tuple) and all(fits(v, arguments[0]) for v in value)
    if annotation is int or annotation is float:
        return isinstance(value, (int, annotation)) and not isinstance(value, bool)
    return isinstance(annotation, type) and isinstance(value, annotation)


def convert(value: object, annotation: object) -> object:
    """Give a value that fits exactly the field's type: 1 becomes 1.0 where a float is wanted."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (tuple, list) and isinstance(value, (tuple, list)):
        return origin(convert(item, arguments[0]) for item in value)
    if origin in (Union, types.UnionType):
        return convert(value, next(a for a in arguments if fits(value, a)))
    return float(value) if annotation is float and isinstance(value, (int, float)) else value


def print_type(annotation: object) -> str:
    """A type as a person writes it: `int`, `vector or element`, `list of float`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(map(print_type, arguments))
    if origin in (tuple, list):
        return f"list of {print_type(arguments[0])}"
    words: dict[object, str] = {bool: "true or false", str: "text", type(None): "none"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def print_spec(instance: Named) -> str:
    """Return the spec of a plug-in's instance: its name, and the options that differ from their defaults."""
    rows = []
    for field in dataclasses.fields(cast("DataclassInstance", instance)):
        value = getattr(instance, field.name)
        if field.init and value != default_of(field):
            rows.append(f"{field.name}={print_value(value)}")
    return f"{instance.name}{{{','.join(rows)}}}" if rows else str(instance.name)


def print_value(value: object) -> str:
    """Print one value so that it reads back as the same; a plug-in in an option prints as its own spec."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(print_value, value)) + "]"
    if dataclasses.is_dataclass(value) and isinstance(value, Named):
        return print_spec(value)
    if not isinstance(value, str):
        return repr(value)
    special = any(character in _SPECIAL or character.isspace() for character in value)
    plain = value and not special and parse_value(value) == value
    return value if plain else "'" + re.sub(r"(['\\])", r"\\\1", value) + "'"
