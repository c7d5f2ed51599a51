"""Privacy: what is written for others names files by their last names, and never says where they lie."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from graphprune.data.sources import is_local
from graphprune.data.splits import split_name
from graphprune.data.stream.domains import Domain, split_domains
from graphprune.errors import UsageError
from graphprune.reporting.work import Work

T = TypeVar("T")
_OWN_WORDS = {"samples", "files"}  # a model's words, and paths within OUT


def hidden_paths(work: Work, folder: Path) -> dict[str, str]:
    """What must not be said, and what is said in its place: the longest first."""
    home, recipe = str(Path.home()), work.recipe.model_dump(mode="json") if work.recipe is not None else {}
    asked = (work.asked.model, work.asked.data, work.asked.held_out or "", *texts_in(recipe))
    named = [split_name(domain.spec)[0] for text in asked for domain in named_texts(text)]
    given = [name for name in named if "/" in name and is_local(name)]
    folders = [str(path) for path in (work.source.source.folder, work.source.source.companions) if path is not None]
    found = {path: last_name(path) for name in (*given, *folders) for path in spellings(name)}
    found |= {str(folder): "OUT", f"{home}/": "~/" if len(home) > 1 else f"{home}/"}
    return {path: found[path] for path in sorted(found, key=len, reverse=True)}


def named_texts(text: str) -> tuple[Domain, ...]:
    """The texts that a word may name; itself where it is no list of texts."""
    try:
        return split_domains(text)
    except UsageError:
        return (Domain(text, 1.0),)


def spellings(name: str) -> set[str]:
    """The ways in which a path may be written."""
    path = Path(name).expanduser()
    return {name, str(path), str(path.absolute()), str(path.resolve())}


def last_name(path: str) -> str:
    return Path(path).expanduser().resolve().name or "folder"


def texts_in(value: object) -> Iterator[str]:
    """Every text in plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in value.values() for text in texts_in(item))
    elif isinstance(value, (list, tuple)):
        yield from (text for item in value for text in texts_in(item))


def without_paths(value: T, hidden: Mapping[str, str]) -> T:
    """Plain data with every hidden path said by its last name; what a model wrote stays as it is."""
    changed: object = value
    if isinstance(value, str):
        changed = value
        for path, shown in hidden.items():
            changed = str(changed).replace(path, shown)
    elif isinstance(value, Mapping):
        changed = {key: item if key in _OWN_WORDS else without_paths(item, hidden) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        changed = type(value)(without_paths(item, hidden) for item in value)
    return changed  # type: ignore[return-value]  # of the type that was given
