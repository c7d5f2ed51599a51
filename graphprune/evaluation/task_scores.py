"""Scores on lm-eval tasks: local ones from a folder of the user, and any other that lm-eval knows."""

import contextlib
import difflib
import importlib.util
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from graphprune.errors import DataError, UsageError, foreign
from graphprune.evaluation.language_model import LanguageModel
from graphprune.evaluation.tasks.local import GROUPS, local_names, missing_files, write_tasks
from graphprune.running.likelihood import Count

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

_BOOTSTRAP = 1000  # for metrics whose standard error has no closed form; accuracies have one
_SEED = 1234  # lm-eval's own for worked examples


class Counts(TypedDict):
    """The examples of a task, and how many of them were asked."""

    original: int
    effective: int


EvalResults = TypedDict(
    "EvalResults",
    {
        "results": Mapping[str, Mapping[str, object]],
        "groups": NotRequired[Mapping[str, Mapping[str, object]]],
        "group_subtasks": NotRequired[Mapping[str, Sequence[str]]],
        "n-shot": NotRequired[Mapping[str, int | None]],
        "n-samples": NotRequired[Mapping[str, Counts]],
    },
)


@dataclass(frozen=True)
class TaskScore:
    """One metric of a task or group over `examples` questions; `shots` is the number of worked examples shown.

    `members` are the tasks of a group; a group's value is what its file says: the mean over them or over all examples.
    """

    task: str
    metric: str
    value: float
    standard_error: float | None
    examples: int
    shots: int
    members: tuple[str, ...] = ()

    @property
    def group(self) -> bool:
        return bool(self.members)


def score_tasks(
    model: LanguageModel,
    tasks: Sequence[str],
    data: Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
    batch: int = 16,
    progress: Count | None = None,
) -> tuple[TaskScore, ...]:
    """Run lm-eval tasks on a model; groups come before their members.

    Names that end in `_local` read .jsonl files from `data`; other names are lm-eval's own, whose data sets come from
    the hub. No names stand for every local group that `data` has files for. `limit` is the number of examples of each
    task, `shots` replaces the number that the task asks for.
    Raises UsageError for unknown names and where lm-eval is missing, DataError for data that cannot be read.
    """
    require_lm_eval()
    with tempfile.TemporaryDirectory(prefix="graphprune-") as name, quiet():
        folder = Path(name)
        offered = write_tasks(data, folder) if data is not None else ()
        names = list(tasks) or [name for name in GROUPS if name in offered]
        manager = task_manager(names, folder, offered)
        results = run(manager, model, names, limit, shots, batch, progress)
    return tuple(read_scores(results))


def require_lm_eval() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError("tasks are run by lm-eval, which is not installed: pip install graphprune[eval]")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the log and the progress bars of lm-eval and datasets off the terminal."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def task_manager(tasks: Sequence[str], folder: Path, offered: Sequence[str]) -> "TaskManager":
    """The index of tasks; lm-eval's own thousands are read only where one of them is asked for."""
    from lm_eval.tasks import TaskManager

    for name in tasks:
        check_local(name, offered)
    own = all(name in offered for name in tasks)
    manager = TaskManager(include_path=str(folder), include_defaults=not own)
    for name in tasks:
        if name not in manager.all_tasks:
            raise UsageError(explain_unknown(name, [*manager.all_tasks, *local_names()]))
    return manager


def check_local(name: str, offered: Sequence[str]) -> None:
    """Raise UsageError or DataError where a local task has no data, or where one was meant and mistyped.

    The latter is said here because reading lm-eval's own index takes many seconds.
    """
    if name in offered:
        return
    if name not in local_names():
        local = {*offered, *local_names()}
        if f"{name}_local" not in local and difflib.get_close_matches(name, local, cutoff=0.9):
            raise UsageError(explain_unknown(name, sorted(local)))
        return
    needed = ", ".join(missing_files(name))
    if not offered:
        raise UsageError(f"{name} reads local files: pass --eval-data with the folder that has {needed or 'them'}")
    raise DataError(f"{name} needs {needed or 'files'} below the folder of evaluation data, which has none")


def explain_unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.6)
    guess = f"did you mean {' or '.join(near)}?" if near else "lm-eval's documentation lists them all"
    return f"lm-eval knows no task {name!r}; {guess}"


def run(
    manager: "TaskManager",
    model: LanguageModel,
    tasks: list[str],
    limit: int | None,
    shots: int | None,
    batch: int,
    progress: Count | None,
) -> "EvalResults":
    """What lm-eval's `evaluate` gives, its failures as one line."""
    from lm_eval.evaluator import evaluate

    from graphprune.evaluation.lm_eval_adapter import Harness

    with foreign(lambda error: DataError(explain_failure(tasks, error))):
        loaded = manager.load(tasks)
        for task in loaded["tasks"].values():
            set_shots(task, shots)
        adapter = Harness(model, batch, progress)
        found: EvalResults = evaluate(adapter, loaded, limit, bootstrap_iters=_BOOTSTRAP, log_samples=False)
    return found


def set_shots(task: "Task", shots: int | None) -> None:
    """Set the number of worked examples as lm-eval's `simple_evaluate` does: a task that says 0 keeps it.

    The rest of `simple_evaluate` reseeds every random generator of the process and asks git and pip about it.
    """
    own = task.get_config("num_fewshot")
    if own is None or (shots is not None and own != 0):
        task.set_config(key="num_fewshot", value=shots or 0)
    task.set_fewshot_seed(seed=_SEED)


def explain_failure(tasks: Sequence[str], error: Exception) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    local = [f"{name}_local" for name in tasks if f"{name}_local" in local_names()]
    hint = f"; {', '.join(local)} with --eval-data need no network" if local else ""
    return f"lm-eval cannot run {', '.join(tasks)}: {type(error).__name__}: {line[:200]}{hint}"


def read_scores(results: "EvalResults") -> Iterator[TaskScore]:
    """The metrics of lm-eval's results, groups first, in lm-eval's order."""
    groups = results.get("groups", {})
    counts, members = results.get("n-samples", {}), results.get("group_subtasks", {})
    for name, metrics in {**groups, **results["results"]}.items():
        below = [n for n in leaves(name, members) if n in counts]
        examples = sum(counts[n]["effective"] for n in below)
        inner = tuple(below) if name in groups else ()
        shown = max((results.get("n-shot", {}).get(n) or 0 for n in below), default=0)
        for key, value in metrics.items():
            metric, comma, _ = key.partition(",")
            if comma and not metric.endswith("_stderr") and isinstance(value, (int, float)):
                error = metrics.get(key.replace(metric, f"{metric}_stderr", 1))
                spread = float(error) if isinstance(error, (int, float)) else None
                yield TaskScore(name, metric, float(value), spread, examples, shown, inner)


def leaves(name: str, members: Mapping[str, Sequence[str]]) -> list[str]:
    """The tasks of a group, or the task itself."""
    below = members.get(name) or []
    return [leaf for each in below for leaf in leaves(each, members)] if below else [name]
