"""Calls into the code of others, which raises what it likes."""

from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def attempt(call: Callable[[], Found]) -> Found | Exception:
    """What a call gives, or what it raised.

    For a model's own code on sizes that it never meant to have, and for its configuration's checks: each has errors of
    any class, and all of them only say that this one is to be passed over. See `errors.foreign` for what is not.
    """
    try:
        return call()
    except Exception as error:  # the reason stands above: no narrower class covers them
        return error
