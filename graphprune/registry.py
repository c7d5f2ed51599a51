"""Plug-ins: entry points by kind and name. Built-ins and third parties enter by this one door."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from graphprune.errors import RegistryError
from graphprune.suggestions import did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PluginKind = Literal["passes", "importance", "allocation", "compensation", "training", "backends", "axis_rules"]
PLUGIN_KINDS: tuple[PluginKind, ...] = get_args(PluginKind)


def entry_points(group: str, name: str | None = None) -> Iterable["EntryPoint"]:
    """What is installed of a group, under one name where that is given.

    What reads it is a tenth of the time of a command that asks for none, so it is imported here.
    """
    from importlib.metadata import entry_points as find_all

    found = find_all(group=group)
    return found if name is None else found.select(name=name)


def names(kind: PluginKind) -> tuple[str, ...]:
    """Return the names of all installed plug-ins of one kind, sorted; nothing is imported."""
    return tuple(sorted({point.name for point in entry_points(group=group_name(kind))}))


def find(kind: PluginKind, name: str) -> "EntryPoint":
    """Return the entry point of one plug-in without importing it.

    Raises RegistryError where there is none, with the near and the known names, or where two distributions claim it.
    """
    found = distinct(entry_points(group=group_name(kind), name=name))
    if not found:
        raise RegistryError(explain_unknown(kind, name))
    if len(found) > 1:
        origins = " and ".join(f"{distribution_name(point)} ({point.value})" for point in found)
        raise RegistryError(f"{group_name(kind)} {name!r} is claimed by {origins}; uninstall one of them")
    return found[0]


def load(kind: PluginKind, name: str) -> Any:
    """Import and return the class behind a name; for `axis_rules` the mapping from operator to rule.

    Raises RegistryError, also where its module cannot be imported.
    """
    point = find(kind, name)
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as error:
        origin = distribution_name(point)
        raise RegistryError(f"{group_name(kind)} {name!r} of {origin} cannot be imported: {error}") from error
    if not isinstance(loaded, Mapping if kind == "axis_rules" else type):
        wanted = "mapping from operator to rule" if kind == "axis_rules" else "class"
        raise RegistryError(f"{group_name(kind)} {name!r} is {point.value}, which is not a {wanted}")
    return loaded


def group_name(kind: PluginKind) -> str:
    """The entry-point group of a kind."""
    return f"graphprune.{kind}"


def distribution_name(point: "EntryPoint") -> str:
    """The distribution that an entry point belongs to."""
    return point.dist.name if point.dist is not None else "an unknown distribution"


def distinct(points: Iterable["EntryPoint"]) -> list["EntryPoint"]:
    """Drop the repetitions that one distribution found twice on the path makes; two distributions stay two."""
    return list({(distribution_name(point), point.value): point for point in points}.values())


def explain_unknown(kind: PluginKind, name: str) -> str:
    known = names(kind)
    guess = did_you_mean(name, known, 3)
    listing = ", ".join(known) if known else "none is installed"
    return f"no {group_name(kind)} plug-in is named {name[:60]!r}; {guess}known: {listing}"
