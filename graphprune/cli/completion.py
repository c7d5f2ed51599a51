"""`graphprune completion`: the script by which a shell completes commands, options and their values.

It is typer's own, which knows every option of ours from its declaration; tools for argparse have nothing to read here.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer
import typer.completion
from typer._completion_classes import completion_init  # which typer calls for its own options alone

from graphprune import registry
from graphprune.suggestions import check_choice

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_GRAPHPRUNE_COMPLETE"  # set by the script when it asks what fits

EXAMPLES = """[bold]Where it goes[/bold]

bash: graphprune completion bash > ~/.local/share/bash-completion/completions/graphprune

zsh: graphprune completion zsh > a folder of $fpath, as _graphprune

fish: graphprune completion fish > a file graphprune.fish in ~/.config/fish/completions"""


def register(app: typer.Typer, asked: str | None) -> None:
    def completion_command(
        shell: Annotated[str, typer.Argument(metavar="SHELL", help=f"One of {', '.join(SHELLS)}.", show_default=False)],
    ) -> None:
        """Print the script that lets a shell complete graphprune's commands, options, methods and plug-ins."""
        check_choice("completion", shell, SHELLS)
        completion_init()
        typer.completion.shell_complete(typer.main.get_command(app), {}, "graphprune", VARIABLE, f"source_{shell}")

    app.command("completion", epilog=EXAMPLES)(completion_command)


def is_completing() -> bool:
    """Whether a shell asks what fits, and nothing is to be run."""
    asks = VARIABLE in os.environ
    if asks:
        completion_init()
    return asks


def methods() -> list[str]:
    from graphprune.pipeline.recipes import shipped

    return list(shipped())


def plugins(kind: registry.PluginKind) -> Callable[[], Sequence[str]]:
    return lambda: registry.names(kind)


# What the value of an option may be, by the option's field; a list is completed in its last item.
VALUES: Mapping[str, Callable[[], Sequence[str]]] = {
    "method": methods,
    "importance": plugins("importance"),
    "allocation": plugins("allocation"),
    "compensation": plugins("compensation"),
}


def values_of(field: str) -> Callable[[str], list[str]] | None:
    """What typer asks for the values of an option, by what was typed of one."""
    found = VALUES.get(field)
    return None if found is None else lambda incomplete: [name for name in found() if name.startswith(incomplete)]
