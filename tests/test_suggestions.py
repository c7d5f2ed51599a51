"""Suggestions: a value that is none of the choices is refused with the near one, if any, and all."""

import pytest

from graphprune.errors import UsageError
from graphprune.suggestions import AUTO, check_choice

KINDS = (AUTO, "mlp", "attention", "residual")


@pytest.mark.parametrize("value", KINDS)
def test_every_choice_is_taken(value: str) -> None:
    check_choice("--prune", value, KINDS)


@pytest.mark.parametrize(
    ("value", "near"),
    [
        ("mpl", "mlp"),
        ("atention", "attention"),
        ("residuals", "residual"),
        ("autos", "auto"),
        ("MLP", None),
        ("", None),
    ],
)
def test_another_is_refused_with_the_near_one_and_all(value: str, near: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        check_choice("--prune", value, KINDS)
    guess = f"did you mean {near}? " if near else ""
    assert str(caught.value) == f"--prune does not know {value!r}; {guess}it takes auto, mlp, attention, residual"
