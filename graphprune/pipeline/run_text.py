"""Run text: the options of a compilation as a run file that a person reads, and that `compile` runs again."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from graphprune.pipeline.moved_names import move_names
from graphprune.pipeline.options import CompileOptions, explained_options
from graphprune.pipeline.panels import PANELS
from graphprune.pipeline.run_file import CONSENTS, key_of

RUN = "run.yaml"  # in OUT
_HERE = ("out", "dry_run", *CONSENTS)  # of one run, and not of the next
_MARKUP = re.compile(r"\[/?[a-z]+\]")
# What is a key, wherever it was written: that of a host in an address, of the hub, of OpenAI's kind.
_SECRET = re.compile(r"(?<=://)[^/@\s]+@|\b(?:hf|sk)[_-][\w-]{16,}")
_WIDE = 118


def run_again(options: CompileOptions) -> str:
    """The run file that OUT holds: what was asked for, with paths relative to OUT, without keys; what was left at its
    default in a comment."""
    out = options.out or Path()
    given = {name: value for name, value in values_of(options).items() if name not in _HERE}
    moved = move_names(given, Path.cwd(), out.absolute())
    kept = {name: without_secrets(value) for name, value in moved.items()}
    lost = [key_of(name) for name in moved if kept[name] != moved[name]]
    trust = " --trust-remote-code" if options.trust_remote_code else ""
    head = [
        f"What made this folder, by graphprune {version('graphprune')}. The same again, in another one:",
        f"  graphprune compile {RUN} -o ANOTHER{trust}",
        "Paths are relative to this file. An option on the command line is in the place of the one here.",
        *(f"A key was left out of {name}; put it back before running this." for name in lost),
    ]
    left = [f"{key_of(name)} {shown(value)}" for name, value in defaults().items() if name not in (*given, *_HERE)]
    return "\n".join([*map(comment, head), *sections(kept), "", *wrap(f"At their defaults: {', '.join(left)}"), ""])


def run_template(values: Mapping[str, Any]) -> str:
    """A run file to begin with: these options by field, each with its help, and all others as comments."""
    head = [
        f"A run of graphprune: graphprune compile {RUN}",
        "Every option of `graphprune compile` has a line here, those at their defaults behind a #. Paths are relative",
        "to this file. An option on the command line is in the place of the one here.",
    ]
    return "\n".join([*map(comment, head), *sections(values, taught=True), ""])


def values_of(options: CompileOptions) -> dict[str, Any]:
    """The options that differ from their defaults, by field."""
    every = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in every.items() if name == "model" or value != getattr(CompileOptions, name)}


def defaults() -> dict[str, Any]:
    """Every option that has a default other than nothing."""
    every = {field.name: field.default for field in fields(CompileOptions) if field.name != "model"}
    return {name: value for name, value in every.items() if value is not False and value not in (None, ())}


def sections(values: Mapping[str, Any], taught: bool = False) -> Iterator[str]:
    """The lines: model and OUT first, then panel by panel."""
    panels = [name for names in PANELS.values() for name in names]
    rest = [f.name for f in fields(CompileOptions) if f.name not in (*panels, "model", "out", *CONSENTS)]
    yield from entries(("model", "out"), values, False)
    for title, names in (*PANELS.items(), ("Besides", tuple(rest))):
        lines = list(entries(names, values, taught))
        yield from ["", f"# {title}", *lines] if lines else []


def entries(names: tuple[str, ...], values: Mapping[str, Any], taught: bool) -> Iterator[str]:
    for name in names:
        explained = explained_options().get(name)
        if name in values:
            yield from wrap(_MARKUP.sub("", explained.help)) if taught and explained else ()
            yield entry(name, values[name])
        elif taught and name not in _HERE:
            help_, default = explained.help if explained else "", getattr(CompileOptions, name)
            yield from wrap(_MARKUP.sub("", help_)) if help_ else ()
            yield f"# {entry(name, default)}" if default not in (None, ()) else f"# {key_of(name)}:"


def entry(field: str, value: Any) -> str:
    """One line of YAML."""
    made = plain(value)
    dumped = yaml.safe_dump([made], default_flow_style=True, width=1 << 20, allow_unicode=True)
    return f"{key_of(field)}: {str(dumped).strip()[1:-1]}"


def plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def without_secrets(value: Any) -> Any:
    """A value without what only its owner may know."""
    if isinstance(value, (tuple, list)):
        return type(value)(without_secrets(each) for each in value)
    return _SECRET.sub("", value) if isinstance(value, str) else value


def wrap(text: str) -> Iterator[str]:
    """A comment in lines of a bearable length."""
    line = "#"
    for word in text.split():
        if len(line) + len(word) >= _WIDE:
            yield line
            line = "#"
        line += f" {word}"
    yield line


def comment(line: str) -> str:
    return f"# {line}".rstrip()
