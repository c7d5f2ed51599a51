"""Suggestions: the near name, where a name is not known."""

import difflib
from collections.abc import Sequence
from typing import Literal

from graphprune.errors import UsageError

AUTO: Literal["auto"] = "auto"  # the choice that is left to graphprune


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raise UsageError with the near and all choices where a value is none of them."""
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
        guess = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"{option} does not know {value!r}; {guess}it takes {', '.join(choices)}")
