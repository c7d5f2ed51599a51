"""`compare`: every method at every size in a process of its own, and the tables of what came of it."""

import datetime
import importlib.util
import platform
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from graphprune.amounts import parse_target
from graphprune.comparison.cells import CellPlan, code_hash, content, plan_cells, recipe_of
from graphprune.comparison.kept import MODELS, opened, read_cell, write_cell, write_tables
from graphprune.comparison.methods import DENSE, Method, parse_methods, printable
from graphprune.comparison.options import WINDOW, CompareOptions, field_option, read_tokens
from graphprune.comparison.running import run_cells
from graphprune.comparison.schema import Cell, Comparison, Measured, MethodPart, Text
from graphprune.comparison.summary import make_rows
from graphprune.context import stated_context
from graphprune.data.sources import look_at_text, shown_source
from graphprune.data.splits import split_name
from graphprune.data.tokenizer_files import require_tokenizer
from graphprune.errors import GraphpruneError, UsageError
from graphprune.frontend.places import look_at
from graphprune.json_data import read_object
from graphprune.pipeline.resolution import resolve_recipe
from graphprune.progress import Progress, no_progress
from graphprune.reporting.privacy import last_name
from graphprune.threads import processors

STAGE = "comparing"
_NAMED = 3  # of the reasons for failures


@dataclass(frozen=True)
class Prepared:
    """A comparison as far as it can be seen without torch: its methods and cells, and the options made whole."""

    options: CompareOptions
    methods: tuple[Method, ...]
    plans: tuple[CellPlan, ...]

    @property
    def distinct(self) -> dict[str, CellPlan]:
        """The cells by their keys: two methods may be one."""
        return {plan.key: plan for plan in reversed(self.plans)}


def prepare(options: CompareOptions) -> Prepared:
    """See what is wrong with names, files and the place of the result. Raises GraphpruneError."""
    methods = parse_methods(options.methods)
    folder = look_at(options.model, True, options.trust_remote_code)
    require_tokenizer(folder)
    for text in filter(None, (options.data, options.held_out, options.search)):
        look_at_text(text, options.field)
    check_contents(options)
    check_tasks(options)
    options = with_window(options, folder)
    return Prepared(options, methods, plan_cells(options, methods, folder))


def check_contents(options: CompareOptions) -> None:
    """Raise UsageError where the text that is reported on is a copy of one that a method sees."""
    assert options.held_out is not None
    reported = content(options.held_out)
    for option, used in (("--data", options.data), ("--search", options.search)):
        if used is not None and split_name(used)[0] != split_name(options.held_out)[0] and content(used) == reported:
            raise UsageError(f"--held-out and {option} hold the same text; report on one that no method sees")


def check_tasks(options: CompareOptions) -> None:
    """Raise UsageError for tasks that cannot be scored, as far as their names tell."""
    from graphprune.evaluation.tasks.local import local_names

    if options.tasks and importlib.util.find_spec("lm_eval") is None:
        raise UsageError("tasks are run by lm-eval, which is not installed: pip install graphprune[eval]")
    if options.eval_data is not None and not options.eval_data.is_dir():
        raise UsageError(f"no folder of evaluation data at {options.eval_data}; --eval-data takes one of .jsonl files")
    local = next((name for name in options.tasks if name in local_names()), None)
    if local is not None and options.eval_data is None:
        raise UsageError(f"{local} reads local files: pass --eval-data with the folder that has them")


def with_window(options: CompareOptions, folder: Path) -> CompareOptions:
    """The options with windows that the model was made for, as far as its configuration says it. Raises UsageError."""
    most = stated_context(read_object(folder / "config.json"))
    if options.window is None:
        return replace(options, window=min(WINDOW, most or WINDOW))
    if most is not None and options.window > most:
        raise UsageError(
            f"windows of {options.window} tokens are longer than the model's context of {most}; lower --window"
        )
    return options


def check_plugins(prepared: Prepared) -> None:
    """Make every plug-in with its options, for which it is imported. Raises UsageError."""
    for asked in {plan.method: plan.asked for plan in prepared.plans}.values():
        resolve_recipe(asked)


def compare(options: CompareOptions, progress: Progress = no_progress) -> Comparison:
    """Measure what is not there yet, cell by cell, and write the tables into OUT.

    The dense model is measured first: where that fails, nothing can be compared, and its error is raised. Other cells
    that fail are part of the tables. Raises GraphpruneError.
    """
    prepared = prepare(options)
    code_hash()  # of what is there when the cells begin
    check_plugins(prepared)
    with opened(options, prepared.plans) as out:
        cells = {key: cell for key, plan in prepared.distinct.items() if (cell := read_cell(out, plan)) is not None}
        waiting = [plan for key, plan in reversed(prepared.distinct.items()) if key not in cells]
        known = len(cells)
        models = out.absolute() / MODELS if options.keep else None
        parts = [[plan for plan in waiting if plan.dense], [plan for plan in waiting if not plan.dense]]
        done = 0
        for part in parts:
            for moment in run_cells(part, options.jobs, models):
                if moment.ended is not None:
                    done += 1
                    check_dense(moment.ended)
                    write_cell(out, moment.ended)
                    cells[moment.ended.key] = moment.ended
                said = [*moment.doing, *([f"{known} were there"] if known else [])]
                progress(STAGE, done, len(waiting), "; ".join(said))
            check_targets(options, cells[prepared.plans[0].key])
        comparison = make_comparison(options, prepared, cells)
        write_tables(out, comparison)
    return comparison


def check_dense(cell: Cell) -> None:
    if cell.method == DENSE and cell.error is not None:
        raise GraphpruneError(f"the model itself cannot be measured, so nothing is compared: {cell.error}")


def check_targets(options: CompareOptions, dense: Cell) -> None:
    """Raise BudgetError for a target above the model, now that its size is known."""
    assert dense.measured is not None
    for target in options.targets:
        parse_target(target, dense.measured.parameters)


def make_comparison(options: CompareOptions, prepared: Prepared, cells: dict[str, Cell]) -> Comparison:
    """Everything that the tables say."""
    names = [method.name for method in prepared.methods]
    tokens = [read_tokens(text) for text in options.train_tokens]
    first, *others = [renamed(cells[plan.key], plan) for plan in prepared.plans]
    assert first.measured is not None
    return Comparison(
        schema_version=1,
        command=command_line(options),
        model=model_name(options.model),
        parameters=first.measured.parameters,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        versions=versions(),
        machine=machine(first.measured),
        methods=[MethodPart(name=name, recipes=recipes(prepared.plans, name)) for name in names],
        targets=list(options.targets),
        train_tokens=tokens,
        seeds=options.seeds,
        text=describe_text(options, first.measured),
        dense=first.measured,
        cells=[first, *others],
        rows=make_rows(others, names, options.targets, tokens, options.tasks),
        notes=list(notes_of([first, *others])),
    )


def machine(dense: Measured) -> str:
    threads = f"{dense.threads} thread{'s' * (dense.threads != 1)}"
    return f"{platform.machine()}, {processors()} processors, {threads} a cell, on {dense.device}"


def renamed(cell: Cell, plan: CellPlan) -> Cell:
    """The cell under the names of this table: two rows may be one model."""
    named = {"method": plan.method, "target": plan.target, "seed": plan.seed, "tokens": plan.tokens}
    return cell.model_copy(update=named)


def recipes(plans: Sequence[CellPlan], name: str) -> list[dict[str, Any]]:
    """The recipe of a method as it was run: one for each number of tokens."""
    own = {plan.tokens: plan for plan in plans if plan.method == name}
    return [recipe_of(plan) for plan in own.values()]


def notes_of(cells: Sequence[Cell]) -> Iterator[str]:
    """What the reader should know of the cells as a whole."""
    other = [cell for cell in cells if cell.code != code_hash()]
    if other:
        yield (
            f"{len(other)} of {len(cells)} cells were measured by another state of graphprune's code than the present "
            "one, of the same version; --restart measures them anew"
        )
    threads = {cell.measured.threads for cell in cells if cell.measured is not None}
    if len(threads) > 1:
        counts = " and ".join(map(str, sorted(threads)))
        yield f"cells were measured with {counts} threads; their seconds do not compare"
    failed = sum(cell.measured is None for cell in cells)
    if failed:
        yield f"{failed} of {len(cells)} cells failed; the same command tries them again"


def describe_text(options: CompareOptions, dense: Measured) -> Text:
    assert options.held_out is not None
    return Text(
        data=printable(shown_source(options.calibrated)),
        search=printable(shown_source(options.searched)),
        held_out=printable(shown_source(options.held_out)),
        samples=options.samples,
        length=options.length,
        window=dense.window,
        stride=options.stride or dense.window - 1,
        bos=options.bos,
        text_bytes=options.text_bytes,
        text_tokens=options.text_tokens,
        tasks=list(options.tasks),
        task_limit=options.task_limit,
    )


def model_name(model: str) -> str:
    """A hub id, or the last part of a path."""
    return printable(last_name(model) if Path(model).expanduser().exists() else model)


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("graphprune", "torch", "transformers")}


def command_line(options: CompareOptions) -> str:
    """The command, files by their last names: what is written for others does not say where they lie."""
    words = ["graphprune", "compare", model_name(options.model)]
    plain = {field.name: field.default for field in fields(CompareOptions)}
    for name, value in vars(options).items():
        if name not in _NOT_SAID and value != plain[name]:
            words += spell(name, value)
    return printable(shlex.join(words))


_NOT_SAID = ("model", "out", "dry_run", "restart", "overwrite", "jobs", "keep")
_TEXTS = ("data", "held_out", "search")


def spell(name: str, value: object) -> list[str]:
    """An option and its value as they are typed."""
    option = field_option(name)
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    if name == "settings" and isinstance(value, tuple):
        return [word for each in value for word in (option, str(each))]
    if isinstance(value, tuple):
        return [option, ",".join(map(without_folder, value))]
    shown = shown_source(str(value)) if name in _TEXTS else str(value)
    return [option, last_name(shown) if isinstance(value, Path) else shown]


def without_folder(text: str) -> str:
    """The file of a recipe by its last name, with what stands around it."""
    name, equals, rest = text.partition("=")
    body = rest if equals and "/" in rest.partition("{")[0] else text
    if "/" not in body.partition("{")[0]:
        return text
    file, plus, others = body.partition("+")
    return f"{name}=" * (body is rest) + Path(file).name + plus + others


def failures(comparison: Comparison) -> str:
    """The methods that failed, each reason once; nothing where none did."""
    failed = [cell for cell in comparison.cells if cell.measured is None]
    reasons = list(dict.fromkeys(f"{cell.method}: {cell.error}" for cell in failed))
    more = f"; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
    said = f"{len(failed)} of {len(comparison.cells)} cells failed: {'; '.join(reasons[:_NAMED])}{more}"
    return f"{said}; the same command tries them again" if failed else ""
