"""Streams: stdout and stderr as a shell hands them over, which may be closed, full, or know no character but ASCII."""

import contextlib
import errno
import io
import os
import sys

BROKEN = 141  # what a shell reports of a program that SIGPIPE ended


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
