"""Plan: the decision what to keep, as plain data that can be saved, compared and replayed."""

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, cast, get_args

from graphprune.errors import PlanError, first_line
from graphprune.json_data import read_object

FORMAT, EDITED = 1, 2  # formats: of plans that cut alone, and of those with edits
Statistics = Literal["survivors", "exact"]


class EditData(TypedDict):
    """An edit as JSON data."""

    edit: str
    of: str


class PlanData(TypedDict):
    """A plan as JSON data. `biases` is how plans of format 1 named the edits of that kind."""

    format: int
    statistics: Statistics
    dropped: list[str]
    keep: dict[str, list[int]]
    biases: NotRequired[list[str]]
    edits: NotRequired[list[EditData]]


@dataclass(frozen=True)
class Edit:
    """A change of the graph that leaves its function as it is: what is done, and the name of what it is done to.

    The kinds, and what each is done to, are those of `graphprune.edits`.
    """

    kind: str
    of: str

    @property
    def name(self) -> str:
        """The kind without its options."""
        return self.kind.partition("{")[0]

    def __str__(self) -> str:
        return f"{self.kind} {self.of}"


@dataclass(frozen=True)
class Plan:
    """Kept units per group (ids absent from `keep` stay whole) and the branches to drop.

    `edits` are made first, in order; ids are those of the edited graph.

    `statistics` says what norms over a cut axis average over: `survivors`, the kept units alone, or `exact`, the
    original width, so that the result equals the masked model.
    """

    keep: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    statistics: Statistics = "survivors"
    edits: tuple[Edit, ...] = ()

    def to_data(self) -> PlanData:
        """The plan as JSON data, which `plan_of` reads; also the form in which unfinished runs keep it."""
        keep = {id: list(units) for id, units in sorted(self.keep.items())}
        data: PlanData = {
            "format": EDITED if self.edits else FORMAT,
            "statistics": self.statistics,
            "dropped": list(self.dropped),
            "keep": keep,
        }
        edits: list[EditData] = [{"edit": edit.kind, "of": edit.of} for edit in self.edits]
        return {**data, "edits": edits} if edits else data

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
    if data["format"] not in (FORMAT, EDITED):
        known = f"formats {FORMAT} and {EDITED}"
        raise PlanError(f"{name} is a plan of format {data['format']}, this version reads {known}")
    keep = {str(id): tuple(map(operator.index, units)) for id, units in data["keep"].items()}
    if data["statistics"] not in get_args(Statistics):
        raise PlanError(f"{name} has statistics {str(data['statistics'])[:40]!r}; it is survivors or exact")
    biases = [Edit("bias", str(weight)) for weight in data.get("biases", ())]
    edits = [Edit(str(each["edit"]), str(each["of"])) for each in data.get("edits", ())]
    return Plan(keep, tuple(map(str, data["dropped"])), data["statistics"], (*biases, *edits))
