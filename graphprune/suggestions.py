"""Suggestions: the near name, where a name is not known."""

import difflib
from collections.abc import Sequence
from typing import Literal

from graphprune.errors import UsageError

AUTO: Literal["auto"] = "auto"  # the choice that is left to graphprune


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raise UsageError with the near and all choices where a value is none of them."""
    if value not in choices:
        guess = did_you_mean(value, choices)
        raise UsageError(f"{option} does not know {value[:60]!r}; {guess}it takes {', '.join(choices)}")


def did_you_mean(value: str, choices: Sequence[str], most: int = 1) -> str:
    """The question after the near ones, with a space behind it; nothing where none is near."""
    near = difflib.get_close_matches(value[:100], choices, n=most, cutoff=0.5)
    return f"did you mean {' or '.join(near)}? " if near else ""
