"""Options of a sweep: which sizes a text names, and what is refused in one line."""

from pathlib import Path
from typing import Any

import pytest

from graphprune.errors import BudgetError, UsageError
from graphprune.sweeping.options import SweepOptions, option_of, spread


def options(**changes: Any) -> SweepOptions:
    return SweepOptions("demo", **{"out": Path("out"), "targets": "80%", **changes})


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("90%:30%", ("90%", "80%", "70%", "60%", "50%", "40%", "30%")),
        ("90%:72%:5%", ("90%", "85%", "80%", "75%", "72%")),
        ("60%:70%:5%", ("60%", "65%", "70%")),
        ("12.5%:10%:1.25%", ("12.5%", "11.25%", "10%")),
        ("80%", ("80%",)),
        ("1.5 B", ("1.5B",)),
    ],
)
def test_a_range_has_both_its_ends(text: str, sizes: tuple[str, ...]) -> None:
    assert spread(text) == sizes


def test_sizes_may_be_mixed() -> None:
    assert options(targets="90%:80%, 60M,").points == ("90%", "80%", "60M")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"targets": None}, "which sizes"),
        ({"targets": ","}, "names no size"),
        ({"targets": "90%:1B"}, "no range of sizes"),
        ({"targets": "90%:80%:1%:2%"}, "no range of sizes"),
        ({"targets": "90%:10%:1%"}, "81 sizes; 50 are the most"),
        ({"targets": "90%:51%:1%,50%:30%:1%"}, "61 sizes; 50 are the most"),
        ({"targets": "80%,80.0%"}, "twice"),
        ({"targets": "many"}, "is not a target"),
        ({"out": None}, "-o OUT"),
        ({"samples": 0}, "--samples must be"),
        ({"text_bytes": 0}, "--bytes must be"),
        ({"effort": "long"}, "quick"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        options(**changes)


def test_a_size_above_the_model_is_refused() -> None:
    with pytest.raises(BudgetError, match="above the whole"):
        options(targets="110%")


def test_a_compilation_of_a_size_is_asked_the_same() -> None:
    asked = options(seed=3, data="stdlib", round_to=8).compilation("70%")
    assert (asked.target_params, asked.method, asked.effort, asked.seed, asked.round_to) == (
        "70%",
        "evolve",
        "quick",
        3,
        8,
    )
    assert options(effort="normal").compilation("70%").effort == "normal"
    assert options(method="taylor").compilation("70%").effort is None
    assert option_of("text_bytes") == "--bytes"
