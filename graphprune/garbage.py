"""Garbage collection: where it is put off, because much is made that stays."""

import contextlib
import gc
import sys
from collections.abc import Iterator
from typing import NoReturn


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Import, load or trace without garbage collection, which would walk all that was made so far again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import what a command needs: not collected while it is made, nor looked at by any collection after it.

    For processes that are graphprune's own: what is garbage now stays as long as the process.
    """
    with uncollected():
        yield
        gc.freeze()  # before collections go on, the first of which would look at all of it


def let_go() -> None:
    """Free the memory of what refers to itself, such as a model that is done with, whether collection is on or not.

    What was there when imports ended (`importing`) is not looked at again.
    """
    gc.collect()


def end(code: int) -> NoReturn:
    """End the process without the collection of all that it still holds, which takes more than a second."""
    gc.freeze()
    sys.exit(code)
