"""Tables of results, for the page of benchmarks/adapt_accel.py."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from adapt_accel_runs import Found, Run

Results = Mapping[Run, Found]


def select_runs(found: Results, **wanted: object) -> list[Found]:
    """The results whose runs have these fields, in the order of the seeds."""
    fields: dict[str, object] = {"text": "validation", "times": 1, **wanted}
    chosen = [f for run, f in found.items() if all(getattr(run, name) == value for name, value in fields.items())]
    return sorted(chosen, key=lambda f: f.run.seed)


def show(values: Sequence[float], digits: int = 3) -> str:
    """The mean, behind it the standard deviation over the seeds; a dash for none."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):,.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else mean


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
