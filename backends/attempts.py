"""Calls into the code of others, which raises what it likes."""

from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def attempt(call: Callable[[], Found]) -> Found | Exception:
    """What a call gives, or what it raised.

    For a model's own code on sizes that it never meant to have, for its configuration's checks, and for torchlib's
    functions: each has errors of any class, and all of them only say that this cannot be done.
    """
    try:
        return call()
    except Exception as error:  # the reason stands above: no narrower class covers them
        return error
