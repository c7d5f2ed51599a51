"""The run file: one YAML file that says what the options of `compile` say. It may be anybody's.

Its fields are those of CompileOptions, and its values are read as the command line reads them: `2:4` and `60%` are
text, whatever YAML takes them for. It is composed and never constructed, so that no tag makes anything.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import TypeAdapter, ValidationError

from graphprune.errors import UsageError, first_line
from graphprune.paths import is_file, path_of
from graphprune.pipeline.moved_names import move_names
from graphprune.pipeline.options import CompileOptions, option_name, typed_fields
from graphprune.pipeline.recipes import PlainLoader
from graphprune.spec import split_commas
from graphprune.suggestions import did_you_mean

SUFFIXES = (".yaml", ".yml")
CONSENTS = (
    "overwrite",
    "restart",
    "trust_remote_code",
    "push_to_hub",
    "private",
    "tracker",
)  # a file of others may not give them
_TARGETS = tuple(name for name in typed_fields(CompileOptions) if name.startswith("target_"))
_LARGEST = 1 << 20  # bytes; one with every option has four thousand
_NULL = "tag:yaml.org,2002:null"
_OF_RECIPES = {"name", "summary", "recover", "calibration", "cut", "token_shares"}


class Merged(NamedTuple):
    """The options of a run by field, and what the command line said otherwise than the file."""

    values: dict[str, Any]
    notes: tuple[str, ...]


def is_run_file(name: str) -> bool:
    """Whether a name in the place of a model can only be meant as a run file."""
    return Path(name).suffix in SUFFIXES and not path_of(name).is_dir()


def key_of(field: str) -> str:
    """What a field is called in a run file: as its option is, without dashes in front."""
    return option_name(field).removeprefix("--")


def read_run(path: Path, folder: Path | None = None) -> dict[str, Any]:
    """The options that a run file gives, by field of CompileOptions.

    Paths in it are relative to the file; they are returned as they are called from `folder`, which is the one that the
    process runs in where none is given. Raises UsageError with the line.
    """
    here = (folder or Path.cwd()).resolve()
    given = dict(read_entries(path, compose(path)))
    if not given.get("model"):
        raise UsageError(f"{path} names no model; write a line model: FOLDER, a hub id, or demo")
    own = path.absolute().parent.resolve()
    return given if own == here else move_names(given, own, here)


def merge_run(path: Path, given: Mapping[str, Any]) -> Merged:
    """What a run file says, with what is given beside it in its place: one target in the place of another, too."""
    told = read_run(path)
    lost = set(given) | (set(_TARGETS) if set(given) & set(_TARGETS) else set())
    notes = tuple(
        f"{key_of(field)}: {show(given[field]) if field in given else 'left out'}, as the command line says; "
        f"{path} has {show(told[field])}"
        for field in told
        if field in lost and told[field] != given.get(field)
    )
    return Merged({field: value for field, value in told.items() if field not in lost} | dict(given), notes)


def show(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text[:60]


def compose(path: Path) -> yaml.MappingNode:
    """The file as nodes with their lines. Raises UsageError."""
    if not is_file(path):
        raise UsageError(f"no run file at {str(path)[:200]}; `graphprune init` writes one")
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise UsageError(f"{path} is larger than any run file is ({_LARGEST:,} bytes); is it one?")
        node = yaml.compose(data.decode("utf-8-sig"), PlainLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}, line {line}: not YAML: {error.problem}; mend this line") from error
    except RecursionError:
        raise UsageError(f"{path} cannot be read: it is nested too deeply") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{path} is no run file: it must hold options such as model: and target-params:")
    return node


def read_entries(path: Path, node: yaml.MappingNode) -> Iterator[tuple[str, Any]]:
    """The fields of CompileOptions that the file gives; what is empty is not given."""
    keys = {key_of(field.name): field.name for field in fields(CompileOptions)}
    seen = set[str]()
    for key, value in node.value:
        name = str(key.value)[:60] if isinstance(key, yaml.ScalarNode) else "a list"
        place = f"{path}, line {key.start_mark.line + 1}"
        spelt = name.replace("_", "-")
        if spelt not in keys:
            raise UsageError(f"{place}: {explain_key(name, node, list(keys))}")
        if keys[spelt] in CONSENTS:
            raise UsageError(f"{place}: {name} is for you to say, not for a file; give --{spelt} on the command line")
        if spelt in seen:
            raise UsageError(f"{place}: {name} stands here a second time; leave one of them")
        seen.add(spelt)
        if not is_empty(value):
            yield keys[spelt], read_value(keys[spelt], value, f"{place}: {name}")


def explain_key(name: str, node: yaml.MappingNode, keys: list[str]) -> str:
    names = {key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
    if len(names & _OF_RECIPES) > 1 and "model" not in names:
        return f"{name!r} is a field of a recipe, not of a run; pass the file as --method FILE"
    guess = did_you_mean(name.replace("_", "-"), keys) or "`graphprune compile --help` has all: "
    return f"{name!r} is no option of compile; {guess}an option --target-params is written target-params"


def is_empty(node: yaml.Node) -> bool:
    return bool(node.tag == _NULL) and isinstance(node, yaml.ScalarNode)


def read_value(field: str, node: yaml.Node, place: str) -> Any:
    """The value of a field, read as the text that the command line has. Raises UsageError."""
    hint = typed_fields(CompileOptions)[field]
    text = read_node(node, place, field == "settings")
    if takes_many(hint) and isinstance(text, str):
        text = [text] if field == "settings" else list(split_commas(text))
    elif isinstance(text, list) and not takes_many(hint):
        raise UsageError(f"{place} is a list; write one value")
    elif field == "method" and not text:
        raise UsageError(f"{place} is empty; write the name of a method, or leave it out")
    try:
        return TypeAdapter(hint).validate_python(tuple(text) if isinstance(text, list) else text)
    except ValidationError as error:
        first = error.errors()[0]
        wrong = str(first["msg"])
        shown = ",".join(text) if isinstance(text, list) else text
        raise UsageError(f"{place} is {shown[:60]!r}: {wrong[:1].lower()}{wrong[1:]}") from error


def takes_many(hint: object) -> bool:
    return "tuple[" in str(hint)


def read_node(node: yaml.Node, place: str, mapping: bool) -> str | list[str]:
    """The text of a value, or of each of a list; of a mapping, where there may be one, `key=value` of each."""
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    if isinstance(node, yaml.SequenceNode):
        if not all(isinstance(each, yaml.ScalarNode) for each in node.value):
            raise UsageError(f"{place} is a list of what is no single value; write it as the command line has it")
        return [str(each.value) for each in node.value]
    if not mapping or not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
        raise UsageError(f"{place} is a mapping; write one value")
    return [setting for key, value in node.value for setting in settings_of(str(key.value), value, place)]


def settings_of(key: str, node: yaml.Node, place: str) -> Iterator[str]:
    """`recover: {lr: 1e-3}` is `recover.lr=1e-3`."""
    if isinstance(node, yaml.MappingNode):
        for inner, value in node.value:
            yield from settings_of(f"{key}.{inner.value}", value, place)
        return
    found = read_node(node, f"{place}: {key}", False)
    yield f"{key}={found if isinstance(found, str) else '[' + ', '.join(found) + ']'}"
