"""Moved names: what a name given in one folder is called in another, so that a run file can be run from anywhere."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphprune.data.library import LIBRARY
from graphprune.data.splits import split_name
from graphprune.data.stream.domains import split_weight
from graphprune.paths import path_of
from graphprune.pipeline.own_text import own_text

_TEXTS = {"data", "held_out"}
_WORDS = {"demo", *LIBRARY}  # names of ours, whatever lies beside them
_NAME = re.compile(r"[^\s{}\[\]=,'\"#]+")  # what may be a path in a spec or a setting
_SETTING = re.compile(r"(?:^|\.)(data|held_out)=")


def move_names(values: Mapping[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """The options of a run, by field, that mean in the folder `new` what these mean in `old`.

    Models and texts are moved where they are files or folders there, or can be nothing else; in other options what is
    written as a path and is one.
    """
    return {field: move_value(field, value, old, new) for field, value in values.items()}


def move_value(field: str, value: Any, old: Path, new: Path) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(move_value(field, each, old, new) for each in value)
    if isinstance(value, Path):
        return Path(name_from(Path(os.path.normpath(old / value.expanduser())), new))
    if not isinstance(value, str):
        return value
    if field == "model":
        return move_name(value, old, new)
    if field in _TEXTS:
        return move_text(value, old, new)
    if field == "settings" and (found := _SETTING.search(value)) is not None:
        return value[: found.end()] + move_text(value[found.end() :], old, new)
    return _NAME.sub(lambda found: move_path(found[0], old, new), value)


def move_text(spec: str, old: Path, new: Path) -> str:
    """A text, or several with their weights, each moved."""

    def move(one: str) -> str:
        name, part = split_name(one)
        return f"{move_name(name, old, new)}#{part}" if part else move_name(name, old, new)

    if own_text(spec) is not None:
        return spec
    if "," not in spec or is_there(split_name(spec)[0], old):
        return move(spec)
    named = [(split_weight(part.strip())[0], part.strip()) for part in spec.split(",")]
    return ",".join(move(name) + part.removeprefix(name) for name, part in named)  # weights as they were written


def move_path(word: str, old: Path, new: Path) -> str:
    """A word of a spec, moved where it is written as a path and is one."""
    written = "/" in word or Path(word).suffix in {".yaml", ".yml"}
    moved = move_name(word, old, new) if written and "://" not in word and is_there(word, old) else word
    return moved if _NAME.fullmatch(moved) else str(word)


def move_name(name: str, old: Path, new: Path) -> str:
    """A path, as it is called from `new`; hub ids, data sets and words of ours stay as they are."""
    told = name.startswith(("/", "~"))
    if name in _WORDS or not (told or name.startswith(".") or is_there(name, old)):
        return name
    return name_from(Path(os.path.normpath(old / path_of(name))), new)


def is_there(name: str, folder: Path) -> bool:
    try:
        return bool(name) and (folder / name).exists()
    except (OSError, ValueError):
        return False


def name_from(path: Path, folder: Path) -> str:
    """A path as it is called from a folder: by `~` or relative to it where that is shorter to say, else whole.

    So it says no more of where both lie than it must.
    """
    home, here = Path.home(), folder.resolve()
    if path.is_relative_to(home) and not here.is_relative_to(home) and len(home.parts) > 1:
        return f"~/{path.relative_to(home)}"
    shared = os.path.commonpath([path, here])
    return str(path) if len(Path(shared).parts) < 2 else os.path.relpath(path, here)
