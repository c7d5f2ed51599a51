"""The terminal: text that may be anybody's, shown without doing what it says, on streams as a shell hands them over.

They may be closed, full, or know no character but ASCII.
"""

import contextlib
import errno
import io
import os
import re
import sys

BROKEN = 141  # what a shell reports of a program that SIGPIPE ended

# Control characters but tab and line feed, what turns the direction of a line around, and halves of characters.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with each control character as its number: names and tokens may hold the commands of a terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def say(text: str = "", end: str = "\n") -> None:
    """Print on stdout."""
    print(visible(text), end=end, flush=not end)


def warn(text: str) -> None:
    """Print on stderr, where progress, notes and errors go."""
    # In one write: what a signal interrupts is a whole line, or nothing.
    print(f"{visible(text)}\n", end="", file=sys.stderr, flush=True)


def prepare_streams() -> None:
    """Give a closed stream a place that takes everything, and replace what an encoding has no character for."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def abandon_stdout() -> None:
    """Let what is left for a stdout that has failed go nowhere, so that the end of the process says nothing of it."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def is_stdout(error: OSError) -> bool:
    """Say whether an error is one of writing to a stream: a file's has the file's name."""
    return error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC, errno.EBADF, errno.EIO)
