"""The command `graphprune`: it collects the commands and turns every error into one line and an exit code."""

import contextlib
import errno
import math
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, final

from graphprune.errors import GraphpruneError, InterruptedRunError, first_line
from graphprune.garbage import end, uncollected
from graphprune.suggestions import did_you_mean
from graphprune.threads import wait_asleep

with uncollected():  # a twentieth of the time of `graphprune --help` went into looking for garbage among imports
    import typer

    from graphprune.cli import (
        artefacts,
        comparison,
        compilation,
        completion,
        evaluation,
        inspection,
        listing,
        running,
        starting,
        sweeping,
    )
    from graphprune.cli.console.terminal import BROKEN, abandon_stdout, is_stdout, prepare_streams, warn

INTERRUPTED = 130
STOPPED = "interrupted; nothing was written"
REPEATED = 2.0  # seconds: `timeout` and launchers send a signal twice, and the second must not disturb the cleaning up

FIRST = "graphprune compile demo -o demo-out --target-params 60%"
COMMANDS = (
    starting,
    compilation,
    comparison,
    sweeping,
    inspection,
    artefacts,
    running,
    evaluation,
    listing,
    completion,
)


def make_app(asked: str | None = None) -> typer.Typer:
    """The commands. Where the name of what was asked for is given, others have their help alone and no parameters."""
    app = typer.Typer(
        name="graphprune",
        help="Turn a large language model into a small one that still works.",
        epilog=f"Start with [bold]{FIRST}[/bold], which needs no network.",
        rich_markup_mode="rich",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(start)
    for commands in COMMANDS:
        commands.register(app, asked)
    return app


def start(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings; may stand anywhere.")] = False,
) -> None:
    """Print the version, or the help where no command is given."""
    if show_version:
        from importlib.metadata import version

        print(version("graphprune"))
    elif context.invoked_subcommand is None:
        print(context.get_help())


@final
@dataclass(eq=False)
class Stops:
    """The signals that came to stop a command; those that come when it has done its work are too `late`."""

    came: list[int] = field(default_factory=list)
    late: bool = False


def run(arguments: Sequence[str], stops: Stops | None = None) -> int:
    """Run one command line and return its exit code; errors become one line on stderr, or a traceback with --debug.

    `stops` has the signals that came to stop it: libraries make other errors of what they interrupt.
    """
    stops = stops or Stops()
    if "--debug" in arguments:
        code = call([argument for argument in arguments if argument != "--debug"])
        stops.late = True
        return code
    stopped = stops.came
    try:
        with warnings.catch_warnings(action="ignore"):
            code = call(arguments)
            stops.late = True
        sys.stdout.flush()
        return code
    except (GraphpruneError, typer.TyperException) as error:
        if stopped and not isinstance(error, InterruptedRunError):
            return report(STOPPED, INTERRUPTED)
        return report(describe(error), error.exit_code)
    except KeyboardInterrupt:
        return report(STOPPED, INTERRUPTED)
    except OSError as error:
        return report(STOPPED, INTERRUPTED) if stopped else report_file(error)
    except Exception as error:  # a fault of ours: one line for the user, the traceback with --debug
        if stopped:
            return report(STOPPED, INTERRUPTED)
        text = first_line(error)[:300] if str(error).strip() else ""
        if is_short_of_memory(error):
            return report(f"there is too little memory: {text or 'none is left'}; lower --samples or --length", 1)
        return report(f"internal error: {type(error).__name__}: {text}; run again with --debug to see where", 1)


def report_file(error: OSError) -> int:
    """Say which file could not be used; of a stdout that was closed nothing, as other programs do."""
    if is_stdout(error):
        abandon_stdout()
        if error.errno == errno.EPIPE:
            return BROKEN
        return report(f"cannot write to stdout: {error.strerror}", 1)
    name = "a file" if error.filename is None else os.fsdecode(error.filename)
    return report(f"cannot use {name}: {error.strerror or first_line(error)}", 1)


def is_short_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def call(arguments: Sequence[str]) -> int:
    asked = next((argument for argument in arguments if not argument.startswith("-")), "")
    code = make_app(None if completion.is_completing() else asked)(
        list(arguments), prog_name="graphprune", standalone_mode=False
    )
    if code == INTERRUPTED:  # typer has caught the KeyboardInterrupt
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def describe(error: GraphpruneError | typer.TyperException) -> str:
    """The error in one line; a wrong option also says where its help is."""
    if isinstance(error, GraphpruneError):
        return " ".join(str(error).split())
    context = getattr(error, "ctx", None)
    text = with_guess(" ".join(error.format_message().split()))
    return f"{text} See {context.command_path} --help" if context else text


def with_guess(text: str) -> str:
    """What typer says of a wrong choice, without pydantic's own words and with the near one."""
    text = text.replace(": Value error, ", ": ")
    found = re.fullmatch(r"Invalid value for .+: '(.*)' is not one of ('.*)\.", text)
    if found is None:
        return text
    guess = did_you_mean(found[1], re.findall(r"'([^']*)'", found[2]))
    return f"{text} {guess[:1].upper()}{guess[1:]}".rstrip()


def report(text: str, code: int) -> int:
    warn(f"error: {text}")
    return code


@contextlib.contextmanager
def stoppable(ends: bool = False) -> Iterator[Stops]:
    """Let SIGTERM, and SIGHUP of a terminal that closes, stop a command as Ctrl-C does; gives those that came.

    Where the process `ends` with it, signals after a command that was done are ignored: what they would make of it is
    a failure.
    """
    stops = Stops()
    last = -math.inf

    def stop(number: int, _: object) -> None:
        nonlocal last
        stops.came.append(number)
        last, before = time.monotonic(), last
        if not stops.late and last - before > REPEATED:
            raise KeyboardInterrupt

    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in (number for number, handler in old.items() if handler is not signal.SIG_IGN):
        signal.signal(number, stop)
    try:
        yield stops
    finally:
        for number, handler in old.items():
            signal.signal(number, signal.SIG_IGN if ends and stops.late else handler)


def run_stoppable(arguments: Sequence[str], ends: bool = False) -> int:
    """Run one command line; 128 and the signal's number where one stopped it, as shells have it."""
    with stoppable(ends) as stops:
        code = run(arguments, stops)
    return 128 + stops.came[0] if stops.came and code == INTERRUPTED else code


def main() -> None:
    """The entry point of the console script."""
    wait_asleep()
    prepare_streams()
    end(run_stoppable(sys.argv[1:], ends=True))
