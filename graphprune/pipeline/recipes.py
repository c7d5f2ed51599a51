"""Recipes: a method as data. A YAML file names the parts of a method and the schedule that they follow."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from graphprune import registry
from graphprune.amounts import parse_count
from graphprune.bounds import Count
from graphprune.errors import UsageError
from graphprune.pipeline.options import Window
from graphprune.pipeline.token_shares import Shares
from graphprune.pruning.options import PRUNABLE, Pruning
from graphprune.spec import build, describe_options, option_types, parse_spec, print_value
from graphprune.suggestions import AUTO, check_choice

FOLDER = Path(__file__).parent / "recipe_files"
_SUFFIXES = (".yaml", ".yml")
_SCHEDULED = ("steps", "first_step", "total_steps", "total_tokens", "stage")


@dataclass(frozen=True)
class Calibration:
    """The text that methods look at: windows and the tokens in each."""

    samples: Count = 128
    length: Window = 128


Scalar = bool | int | float | str | None
Options = Mapping[str, tuple[Scalar, ...] | Scalar]


def read_tokens(options: Any) -> Any:
    """`tokens: 2M` is a count."""
    if isinstance(options, Mapping) and "tokens" in options:
        return {**options, "tokens": parse_count(options["tokens"])}
    return options


class Recipe(BaseModel):
    """A method: prune in `stages` equal cuts; where there is `recover`, train after each.

    `recover` holds options of the pass of that name; its `tokens` are those of all stages together, shared out by
    `token_shares`. `before` and `after` are specs of passes that run once at either end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    summary: str = ""
    source: str = ""
    calibration: Calibration = Calibration()
    before: tuple[str, ...] = ()
    prune: Pruning = Pruning()
    recover: Annotated[Options | None, BeforeValidator(read_tokens)] = None
    stages: Count = 1
    token_shares: Shares = "linear"
    after: tuple[str, ...] = ()

    @property
    def changes_weights(self) -> bool:
        """Whether the weights that are left take other values."""
        return bool(self.recover is not None or self.prune.compensation or self.before or self.after)

    def to_yaml(self) -> str:
        """The recipe with all of its fields, defaults included."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=120))


Label = Callable[[str], str]  # what the user knows a key by


class Change(NamedTuple):
    """A field that is set over the recipe's: its dotted key, the value, and what the user calls it."""

    key: str
    value: Any
    label: str


def shipped() -> dict[str, Path]:
    """The recipes of the package by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def read_recipe(method: str, changes: Sequence[Change] = ()) -> Recipe:
    """Read a shipped recipe by its name, or one of the user's by its path, with changes on top.

    Every plug-in that it names is found and its options are checked. Raises UsageError naming file, key and remedy.
    """
    path = find_recipe(method)
    data = read_yaml(path)
    for change in changes:
        set_key(data, change)
    label = partial(name_key, method if method in shipped() else str(path), changes)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise UsageError(explain_invalid(error, label)) from error
    check_plugins(recipe, label)
    if recipe.recover is None:
        return recipe
    made = make_recover(recipe.recover)  # what YAML reads as text, such as 3e-4, becomes a number
    return recipe.model_copy(update={"recover": {key: getattr(made, key) for key in recipe.recover}})


def find_recipe(method: str) -> Path:
    known = shipped()
    if method in known:
        return known[method]
    path = Path(method).expanduser()
    if path.suffix in _SUFFIXES or "/" in method or path.is_file():
        if not path.is_file():
            raise UsageError(f"no recipe at {method}; give the path of a YAML file or one of {', '.join(known)}")
        return path
    near = difflib.get_close_matches(method, known, n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"no method is named {method!r}; {guess}known: {', '.join(known)}, or the path of a recipe.yaml")


def read_yaml(path: Path) -> dict[str, Any]:
    """The file as a mapping. Raises UsageError with the line where it is no YAML."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}, line {line}: not YAML: {error.problem}; mend this line") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path} is no recipe: it must hold fields such as name: and prune:")
    return data


def set_key(data: dict[str, Any], change: Change) -> None:
    """Set a dotted key; parts that the recipe leaves out are made."""
    *parts, last = change.key.split(".")
    for part in parts:
        if data.get(part) is None:
            data[part] = {}
        data = data[part]
        if not isinstance(data, dict):
            raise UsageError(f"{change.label}: {part} is one value and has no fields")
    data[last] = change.value


def parse_settings(settings: Iterable[str]) -> tuple[Change, ...]:
    """Read `key=value` texts, the values as YAML. Raises UsageError."""
    changes = []
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not all(key.strip().split(".")):
            raise UsageError(f"--set {text}: write key=value, such as --set recover.lr=1e-3")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {text}: {value!r} is not YAML; quote it") from error
        changes.append(Change(key.strip(), read, f"--set {text}"))
    return tuple(changes)


def name_key(file: str, changes: Sequence[Change], key: str) -> str:
    """What the user knows a key by: the option that set it last, or the file and the key."""
    for change in reversed(changes):
        if key == change.key or key.startswith(f"{change.key}.") or change.key.startswith(f"{key}."):
            return str(change.label)
    return f"{file}: {key}"


def explain_invalid(error: ValidationError, label: Label) -> str:
    """One line for the first thing that is wrong."""
    first = error.errors()[0]
    places = [str(part) for part in first["loc"] if not isinstance(part, int)]
    key, text = ".".join(places[:2]), str(first["msg"]).removeprefix("Value error, ")
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        parts = {"calibration": option_types(Calibration), "prune": option_types(Pruning)}
        fields = list(parts.get(places[0], Recipe.model_fields) if len(places) > 1 else Recipe.model_fields)
        near = difflib.get_close_matches(places[-1], fields, n=1, cutoff=0.5)
        guess = f"did you mean {near[0]}? " if near else ""
        return f"{label(key)} is no field of a recipe; {guess}it takes {', '.join(fields)}"
    if first["type"] == "missing":
        return f"{label(key)} is missing; every recipe has one"
    text = text.replace("a dictionary or an instance", "a valid dictionary or instance")  # as pydantic says of a model
    return str(f"{label(key)} is {first['input']!r}: {text[:1].lower()}{text[1:]}")


def check_plugins(recipe: Recipe, label: Label) -> None:
    """Parse every spec and the options of `recover`, so that a wrong one costs nothing. Raises UsageError."""
    prune = recipe.prune
    specs: list[tuple[str, registry.PluginKind, str | None]] = [
        ("prune.importance", "importance", prune.importance),
        ("prune.allocation", "allocation", prune.allocation),
        ("prune.compensation", "compensation", prune.compensation),
        *(("before", "passes", spec) for spec in recipe.before),
        *(("after", "passes", spec) for spec in recipe.after),
    ]
    for key, kind, spec in specs:
        try:
            part = parse_spec(kind, spec) if spec is not None else None
            if "vocabulary" in getattr(part, "kinds", ()):
                raise UsageError("tokens are cut before anything else; name vocabulary in prune.kinds")
        except UsageError as error:
            raise type(error)(f"{label(key)}: {error}") from error
    for what in prune.kinds:
        check_choice(label("prune.kinds"), what, (AUTO, *PRUNABLE))
    if AUTO in prune.kinds and len(prune.kinds) > 1:
        raise UsageError(f"{label('prune.kinds')}: auto stands alone; name the kinds instead")
    if recipe.recover is not None:
        check_recover(recipe.recover, label)


def check_recover(options: Options, label: Label) -> None:
    """Every option is one of the pass and of its type, and all of them together make one. Raises UsageError."""
    cls = registry.load("passes", "recover")
    for key in options:
        if key in _SCHEDULED:
            raise UsageError(
                f"{label(f'recover.{key}')} is set for each stage; leave it out, and give tokens and stages"
            )
        if key not in option_types(cls):
            near = difflib.get_close_matches(key, option_types(cls), n=1, cutoff=0.5)
            guess = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"{label(f'recover.{key}')} is no option of recover; {guess}{describe_options(cls)}")
    for key, value in options.items():
        try:
            build(cls, "recover", {key: option_text(value)})
        except UsageError as error:
            raise UsageError(f"{label(f'recover.{key}')}: {error}") from error


def option_text(value: Any) -> str:
    """A YAML value as a spec writes it; 3e-4, which is text in YAML, is the number."""
    return value if isinstance(value, str) and re.fullmatch(r"[\w.+-]+", value) else print_value(value)


def make_recover(options: Mapping[str, Any]) -> Any:
    """The pass `recover` with these options."""
    return build(registry.load("passes", "recover"), "recover", {k: option_text(v) for k, v in options.items()})
