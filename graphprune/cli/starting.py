"""`graphprune init`: a few questions, and a run file that answers them."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from graphprune.amounts import parse_count, read_target
from graphprune.cli.console.terminal import say, warn
from graphprune.errors import GraphpruneError, UsageError
from graphprune.pipeline.options import WRITTEN, CompileOptions
from graphprune.pipeline.recipes import find_recipe, read_recipe
from graphprune.pipeline.resolution import resolve_recipe
from graphprune.pipeline.run_file import SUFFIXES
from graphprune.pipeline.run_text import RUN, run_template
from graphprune.runtimes.known import NAMES
from graphprune.suggestions import check_choice

# Where a model may run, and the backends that write for it.
PLACES: Mapping[str, tuple[str, ...]] = {
    "anywhere": WRITTEN,
    "transformers": ("huggingface",),
    "onnxruntime": ("huggingface", "onnx"),
    "edge": ("huggingface", "ort{precision=int4}"),
}
WHERE = (*PLACES, *NAMES)  # the names are those of runtimes, which limit what may be cut
METHOD_HELP = "taylor cuts at once; adapt-pruner-ls takes longer and loses less. `graphprune list methods` has all."

EXAMPLES = """[bold]Examples[/bold]

graphprune init

graphprune init mine.yaml --model ./llama --target-params 50% --data corpus.txt --where edge --yes"""


class Question(NamedTuple):
    """What is asked of an option: its words, the answer where none is given, and what refuses a wrong one."""

    field: str
    words: str
    default: str
    check: Callable[[str], object]


def require_model(text: str) -> None:
    if not text.strip() or Path(text).suffix in SUFFIXES:
        raise UsageError(f"{text[:60]!r} is no model; give a folder, a hub id such as org/name, or demo")


QUESTIONS = (
    Question("model", "Which model: a folder, a hub id (org/name), or demo?", "demo", require_model),
    Question("target_params", "How small: a share, or a number of parameters (60%, 1B)?", "60%", read_target),
    Question("method", f"By which method? {METHOD_HELP}", CompileOptions.method, find_recipe),
    Question("data", "Which text shall it look at: a file, a data set, or stdlib?", CompileOptions.data, len),
    Question(
        "where",
        f"Where shall it run: {', '.join(WHERE)}?",
        next(iter(PLACES)),
        lambda text: check_choice("--where", text, list(WHERE)),
    ),
)


TOKENS = Question("train_tokens", "On how many tokens shall it train in all?", "2M", parse_count)


def register(app: typer.Typer, asked: str | None) -> None:
    app.command("init", epilog=EXAMPLES)(init_command)


def init_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The run file to write.")] = Path(RUN),
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="The model; asked for where left out.")] = None,
    target_params: Annotated[str | None, typer.Option(metavar="SIZE", help="Its size: 60%, 1B.")] = None,
    method: Annotated[str | None, typer.Option(metavar="NAME", help=METHOD_HELP)] = None,
    data: Annotated[str | None, typer.Option(metavar="TEXT", help="Text like what the model will be used on.")] = None,
    where: Annotated[str | None, typer.Option(metavar="PLACE", help=f"Where it shall run: {', '.join(WHERE)}.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: what is left out has its default.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE where it exists.")] = False,
) -> None:
    """Ask what is to be made of which model, and write a run file, run.yaml, with every option explained in it.

    `graphprune compile run.yaml` runs it.
    """
    check_place(file, overwrite)
    if not yes and not sys.stdin.isatty():
        raise UsageError("init asks its questions on a terminal; pass --yes to have defaults for what is left out")
    given = {"model": model, "target_params": target_params, "method": method, "data": data, "where": where}
    answers = {each.field: answer(each, given[each.field], yes) for each in QUESTIONS}
    write_run(file, fields_of(answers, yes), overwrite)
    say(f"written to {file}: look through it, then `graphprune compile {file}`")


def check_place(file: Path, overwrite: bool) -> None:
    """Raise UsageError where FILE is none that may be written."""
    if file.suffix not in SUFFIXES:
        raise UsageError(f"{file} is no name of a run file; end it in .yaml")
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise UsageError(f"no file can be written at {file}; name one in a folder that is there")
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists; pass --overwrite to replace it, or name another file")


def answer(question: Question, given: str | None, yes: bool) -> str:
    """The answer that was given, the default, or what a person types, asked again where it is wrong."""
    if given is not None or yes:
        text = question.default if given is None else given
        question.check(text)
        return text
    while True:
        text = str(typer.prompt(question.words, default=question.default)).strip()
        try:
            question.check(text)
            return text
        except (GraphpruneError, ValueError) as error:
            warn(f"{error}")


def fields_of(answers: Mapping[str, str], yes: bool) -> dict[str, Any]:
    """The options that the answers come to, by field; a method that trains is also asked for how long.

    Raises UsageError where they do not go together.
    """
    values: dict[str, Any] = {name: text for name, text in answers.items() if name != "where"}
    recipe = read_recipe(values["method"], plugins=False)
    if not recipe.cuts_units and not recipe.learns:
        del values["target_params"]  # there is no size to reach
    if recipe.recover is not None and "tokens" not in recipe.recover:
        values["train_tokens"] = answer(TOKENS, None, yes)
    place = answers["where"]
    values |= {"backends": PLACES[place]} if place in PLACES else {"runtime": place}
    values["out"] = Path(f"{Path(answers['model']).name or 'model'}-small")
    resolve_recipe(CompileOptions(**values), plugins=False)
    return values


def write_run(file: Path, values: Mapping[str, Any], overwrite: bool) -> None:
    text = run_template(values)
    with file.open("w" if overwrite else "x", encoding="utf-8") as out:
        out.write(text)
