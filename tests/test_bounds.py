"""Bounds: what the fields of options may be, said in their types."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

import pytest
from annotated_types import Ge, Lt

from graphprune.bounds import Count, Positive, Share, require_limits
from graphprune.errors import UsageError
from graphprune.pipeline.options import CompileOptions, explained_options
from graphprune.pipeline.recipes import Calibration, Recipe
from graphprune.pruning.options import Pruning
from graphprune.spec import option_types


@dataclass(frozen=True)
class Options:
    rows: Count | Literal["auto"] | None = 1
    lr: Positive = 0.5
    share: Share | None = None
    floor: Annotated[float, Ge(0), Lt(1)] = 0.0
    way: Literal["up", "down", "none"] = "up"
    free: int = -3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": 0}, "rows of it is 1 or more, not 0"),
        ({"rows": "all"}, "it takes rows=auto, not all"),
        ({"lr": 0.0}, "lr of it is above 0, not 0.0"),
        ({"lr": float("nan")}, "lr of it is above 0, not nan"),
        ({"share": 1.5}, "share of it is from 0 to 1, not 1.5"),
        ({"floor": 1}, "floor of it is from 0 to below 1, not 1"),
        ({"way": "left"}, "it takes way=up, down or none, not left"),
    ],
)
def test_what_a_field_may_not_hold_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        require_limits(Options(**given), "it")


@pytest.mark.parametrize("given", [{"rows": 10**400 * -1}, {"share": float("nan")}, {"share": float("inf")}])
def test_numbers_without_end_keep_to_no_bound(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        require_limits(Options(**given), "it")
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("given", [{}, {"rows": "auto"}, {"rows": None, "share": 1}, {"way": "none"}])
def test_the_rest_passes(given: dict[str, Any]) -> None:
    require_limits(Options(**given), "it")


SET_ALONE = ("calibration.loss",)  # a field that has no option of its own but --set


def test_an_option_that_stands_over_a_recipe_s_field_is_of_its_type_or_none() -> None:
    mine = get_type_hints(CompileOptions, include_extras=True)
    parts = {"prune": option_types_with_bounds(Pruning), "calibration": option_types_with_bounds(Calibration)}
    found = 0
    for name, option in explained_options().items():
        part, _, field = (option.sets or "").rpartition(".")
        if part in parts:
            own = mine[name].__origin__
            theirs: Any = parts[part][field]
            wider = {theirs | None, theirs | Literal["auto"] | None, theirs}
            assert own in wider, name
            found += 1
    assert found == len(option_types(Pruning)) + len(option_types(Calibration)) - len(SET_ALONE)
    assert "stages" in Recipe.model_fields


def option_types_with_bounds(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)
