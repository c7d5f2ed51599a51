"""`graphprune list`: the plug-ins that are installed, with their options."""

import inspect
from typing import Annotated

import typer

from graphprune import registry
from graphprune.cli.arguments import Json
from graphprune.cli.console.show import print_json, print_table
from graphprune.cli.console.terminal import say
from graphprune.errors import RegistryError
from graphprune.suggestions import check_choice

KINDS = ("methods", *registry.PLUGIN_KINDS)


def register(app: typer.Typer, asked: str | None) -> None:
    app.command("list")(list_command)


def list_command(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help=f"One of {', '.join(KINDS)}.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the methods and the installed plug-ins, built-in and third-party alike, with what they do."""
    if kind is not None:
        check_choice("list", kind, KINDS)
    chosen = [k for k in registry.PLUGIN_KINDS if kind in (None, k)]
    found = {"methods": list_methods()} if kind in (None, "methods") else {}
    found |= {k: [describe(k, name) for name in registry.names(k)] for k in chosen}
    if as_json:
        print_json(found)
        return
    for each, rows in found.items():
        if rows:
            print_table(each, tuple(rows[0]), [tuple(row.values()) for row in rows], left=3)
    if not any(found.values()):
        say("none is installed")


def list_methods() -> list[dict[str, str]]:
    """The shipped recipes by name, with what each is and where it is from."""
    from graphprune.pipeline.recipes import read_yaml, shipped

    read = [read_yaml(path) for path in shipped().values()]
    return [{"name": row["name"], "does": row["summary"], "source": row["source"]} for row in read]


def describe(kind: registry.PluginKind, name: str) -> dict[str, str]:
    """Name, first line of the docstring and options; a plug-in that cannot be imported says so in their place."""
    from graphprune.budget.installed import backend_class
    from graphprune.spec import describe_options, option_types

    try:
        cls = backend_class(name) if kind == "backends" else registry.load(kind, name)
    except RegistryError as error:
        return {"name": name, "does": f"error: {error}", "options": ""}
    if not isinstance(cls, type):  # axis rules
        return {"name": name, "does": f"rules for {', '.join(cls)}", "options": ""}
    does = (inspect.getdoc(cls) or "").split("\n", 1)[0]
    options = describe_options(cls).removeprefix("its options: ") if option_types(cls) else ""
    return {"name": name, "does": does, "options": options}
