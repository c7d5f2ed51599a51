"""`graphprune list`: the plug-ins that are installed, with their options."""

import inspect
from typing import Annotated, Any

import typer

from graphprune import registry
from graphprune.cli.arguments import Json
from graphprune.cli.show import print_json, print_table
from graphprune.errors import RegistryError
from graphprune.options import check_choice


def register(app: typer.Typer) -> None:
    app.command("list")(list_command)


def list_command(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[KIND]", help=f"One of {', '.join(registry.PLUGIN_KINDS)}.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the installed plug-ins with what they do and their options, built-in and third-party alike."""
    if kind is not None:
        check_choice("list", kind, registry.PLUGIN_KINDS)
    chosen = [k for k in registry.PLUGIN_KINDS if kind in (None, k)]
    found = {k: [describe(k, name) for name in registry.names(k)] for k in chosen}
    if as_json:
        print_json(found)
        return
    for each, rows in found.items():
        if rows:
            cells = [(row["name"], row["does"], row["options"]) for row in rows]
            print_table(each, ("name", "does", "options"), cells, left=3)
    if not any(found.values()):
        print("none is installed")


def describe(kind: registry.PluginKind, name: str) -> dict[str, Any]:
    """Name, first line of the docstring and options; a plug-in that cannot be imported says so in their place."""
    from graphprune.spec import describe_options, option_types

    try:
        cls = registry.load(kind, name)
    except RegistryError as error:
        return {"name": name, "does": f"error: {error}", "options": ""}
    if kind == "axis_rules":
        return {"name": name, "does": f"rules for {', '.join(cls)}", "options": ""}
    does = (inspect.getdoc(cls) or "").split("\n", 1)[0]
    options = describe_options(cls).removeprefix("its options: ") if option_types(cls) else ""
    return {"name": name, "does": does, "options": options}
