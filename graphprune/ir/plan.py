"""Plan: the decision what to keep, as plain data that can be saved, compared and replayed."""

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, cast, get_args

from graphprune.errors import PlanError, first_line
from graphprune.json_data import read_object

FORMAT = 1
Statistics = Literal["survivors", "exact"]


class PlanData(TypedDict):
    """A plan as JSON data."""

    format: int
    statistics: Statistics
    dropped: list[str]
    keep: dict[str, list[int]]
    biases: NotRequired[list[str]]


@dataclass(frozen=True)
class Plan:
    """Kept units per group (ids absent from `keep` stay whole) and the branches to drop.

    `biases` names weights whose linear calls get a bias of zeros before anything is cut, for methods that fill it.

    `statistics` says what norms over a cut axis average over: `survivors`, the kept units alone, or `exact`, the
    original width, so that the result equals the masked model.
    """

    keep: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    statistics: Statistics = "survivors"
    biases: tuple[str, ...] = ()

    def to_data(self) -> PlanData:
        """The plan as JSON data, which `plan_of` reads; also the form in which unfinished runs keep it."""
        keep = {id: list(units) for id, units in sorted(self.keep.items())}
        data: PlanData = {
            "format": FORMAT,
            "statistics": self.statistics,
            "dropped": list(self.dropped),
            "keep": keep,
        }
        return {**data, "biases": list(self.biases)} if self.biases else data

    def to_json(self) -> str:
        return json.dumps(self.to_data(), indent=1) + "\n"

    def widths(self) -> dict[str, int]:
        """The kept count of each group that is cut and 0 for each dropped branch."""
        return {id: len(units) for id, units in self.keep.items()} | dict.fromkeys(self.dropped, 0)


def read_plan(path: Path) -> Plan:
    """Read a plan from its JSON file. Raises PlanError where it is not one."""
    try:
        return plan_of(cast("PlanData", read_object(path)), str(path))
    except OSError as error:
        raise PlanError(f"no plan can be read at {str(path)[:200]}: {error.strerror}; give a plan.json") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{path} is not a plan: {first_line(error)[:200]}") from error


def plan_of(data: PlanData, name: str = "this") -> Plan:
    """The plan that is written as JSON data. Raises PlanError for another format, and what odd data raise."""
    if data["format"] != FORMAT:
        raise PlanError(f"{name} is a plan of format {data['format']}, this version reads format {FORMAT}")
    keep = {str(id): tuple(map(operator.index, units)) for id, units in data["keep"].items()}
    if data["statistics"] not in get_args(Statistics):
        raise PlanError(f"{name} has statistics {str(data['statistics'])[:40]!r}; it is survivors or exact")
    return Plan(keep, tuple(map(str, data["dropped"])), data["statistics"], tuple(map(str, data.get("biases", ()))))
