"""Recipes: a method as data. A YAML file names the parts of a method and the schedule that they follow."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from graphprune import registry
from graphprune.amounts import parse_count
from graphprune.bounds import Count
from graphprune.errors import UsageError, first_line
from graphprune.paths import is_file
from graphprune.pipeline.declared import declare, make_declared
from graphprune.pipeline.made_passes import check_learner, make_recover, option_text, with_pattern
from graphprune.pipeline.options import Held, Window
from graphprune.pipeline.token_shares import Shares
from graphprune.pruning.options import PRUNABLE, WHOLE, Pruning
from graphprune.spec import build, option_types, parse_spec, split_spec
from graphprune.suggestions import AUTO, check_choice, did_you_mean

FOLDER = Path(__file__).parent / "recipe_files"
_SUFFIXES = (".yaml", ".yml")
_MINUTE = 60
_SCHEDULED = ("steps", "first_step", "total_steps", "total_tokens", "stage")


@dataclass(frozen=True)
class Calibration:
    """What methods look at: windows of text and the tokens in each, or pairs; and the loss of a model of embeddings."""

    samples: Held = 128
    length: Window = 128
    loss: Literal["auto", "similarity", "contrastive"] = "auto"


Scalar = bool | int | float | str | None
Options = Mapping[str, tuple[Scalar, ...] | Scalar]


def read_tokens(options: Any) -> Any:
    """`tokens: 2M` is a count."""
    if isinstance(options, Mapping) and "tokens" in options:
        return {**options, "tokens": parse_count(options["tokens"])}
    return options


def read_groups(options: Any) -> Any:
    """`pattern: 2:4` is two of each four inputs, which YAML reads as minutes and seconds."""
    found = options.get("pattern") if isinstance(options, Mapping) else None
    if isinstance(found, int) and not isinstance(found, bool) and found >= _MINUTE:
        return {**options, "pattern": f"{found // _MINUTE}:{found % _MINUTE}"}
    return options


class Recipe(BaseModel):
    """A method: prune in `stages` equal cuts; where there is `recover`, train after each.

    With `order=width-first` the first half of the cuts takes units alone, the others blocks or layers, scored on what
    is left; `depth-first` the other way round. `recover` holds options of the pass of that name; its `tokens` are those
    of all stages together, shared out by `token_shares`. `cut` is the spec of a pass that takes a target and what may
    be cut, in place of `prune`. `before` and `after` are specs of passes that run once at
    either end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    summary: str = ""
    source: str = ""
    calibration: Calibration = Calibration()
    before: tuple[str, ...] = ()
    prune: Pruning = Pruning()
    cut: str = "prune"
    recover: Annotated[Options | None, BeforeValidator(read_tokens)] = None
    sparsify: Annotated[Options | None, BeforeValidator(read_groups)] = None
    stages: Count = 1
    order: Literal["together", "width-first", "depth-first"] = "together"
    token_shares: Shares = "linear"
    after: tuple[str, ...] = ()

    @property
    def changes_weights(self) -> bool:
        """Whether the weights that are left take other values."""
        trained = self.recover is not None or self.learns or self.sparsify is not None
        return bool(trained or self.prune.compensation or self.before or self.after)

    @property
    def learns(self) -> bool:
        """Whether what goes is learned while training, by a pass in place of `prune`."""
        return self.cut != "prune"

    @property
    def learner(self) -> str | None:
        """The spec of the learner of `recover`, where it has another than the usual."""
        spec = (self.recover or {}).get("learner")
        return None if spec is None else str(spec)

    @property
    def cuts_units(self) -> bool:
        """Whether units go, so that there is a size to reach."""
        return bool(self.prune.kinds)

    @property
    def solves_patterns(self) -> bool:
        """Whether weights are made sparse by what they read on a text."""
        specs = map(split_spec, (*self.before, *self.after))
        methods: list[object] = [options.get("method") for name, options in specs if name == "sparsify"]
        methods += [self.sparsify.get("method")] if self.sparsify is not None else []
        return any(method != "magnitude" for method in methods)

    @property
    def tuned_block(self) -> int:
        """How many inputs share a scale where weights are tuned in 4 bits; 0 where they are not."""
        specs = [split_spec(spec) for spec in (*self.before, *self.after)]
        options = [self.recover or {}, *(options for name, options in specs if name == "recover")]
        return max(int(str(each.get("lora_block", 0))) for each in options)

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


def read_recipe(method: str, changes: Sequence[Change] = (), plugins: bool = True) -> Recipe:
    """Read a shipped recipe by its name, or one of the user's by its path, with changes on top.

    Every plug-in that it names is found, and its options are those that its source declares; with `plugins` it is
    imported, and made with them. Raises UsageError naming file, key and remedy.
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
    check_plugins(recipe, label, plugins)
    if recipe.recover is None or not plugins:
        return recipe
    recover, sparsify = with_pattern(recipe.recover, recipe.sparsify, label)
    made = make_recover(recover)  # what YAML reads as text, such as 3e-4, becomes a number
    read = {key: getattr(made, key) for key in recover}
    return recipe.model_copy(update={"recover": read, "sparsify": sparsify})


def find_recipe(method: str) -> Path:
    known = shipped()
    if method in known:
        return known[method]
    path = Path(method)
    if path.suffix in _SUFFIXES or "/" in method or is_file(path):
        path = path.expanduser() if method.startswith("~/") else path
        if not is_file(path):
            raise UsageError(f"no recipe at {method[:100]}; give the path of a YAML file, or `graphprune list methods`")
        return path
    guess = did_you_mean(method, list(known), 3)
    raise UsageError(f"no method is named {method[:60]!r}; {guess}`graphprune list methods` shows all; or give a file")


def read_yaml(path: Path) -> dict[str, Any]:
    """The file as a mapping. Raises UsageError with the line where it is no YAML."""
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}, line {line}: not YAML: {error.problem}; mend this line") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise UsageError(f"{path} is no recipe: it must hold fields such as name: and prune:")
    return data


class PlainLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """YAML without aliases, which make a few lines stand for more than any memory holds, or for themselves."""

    def compose_node(self, parent: object, index: object) -> object:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "an alias; write the value out", event.start_mark)
        return super().compose_node(parent, index)


def parse_yaml(text: str) -> Any:
    """The value of a text. Raises YAMLError, and ValueError where it is nested too deeply."""
    try:
        return yaml.load(text, PlainLoader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


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
            read = parse_yaml(value)
        except (ValueError, yaml.YAMLError) as error:
            raise UsageError(f"--set {text[:60]}: {value[:40]!r} is not YAML; quote it") from error
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
        guess = did_you_mean(places[-1], fields) or "docs/recipes.md has all"
        return f"{label(key)} is no field of a recipe; {guess}"
    if first["type"] == "missing":
        return f"{label(key)} is missing; every recipe has one"
    text = text.replace("a dictionary or an instance", "a valid dictionary or instance")  # as pydantic says of a model
    return str(f"{label(key)} is {shown(first['input'])}: {text[:1].lower()}{text[1:]}")


def shown(value: object) -> str:
    """A value as a message has it: what holds others is named by its kind alone."""
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, (list, tuple)) else repr(value)[:60]


def check_plugins(recipe: Recipe, label: Label, imported: bool) -> None:
    """Check every spec and the options of `recover`, so that a wrong one costs nothing. Raises UsageError."""
    prune = recipe.prune
    specs: list[tuple[str, registry.PluginKind, str | None]] = [
        ("prune.importance", "importance", prune.importance),
        ("prune.allocation", "allocation", prune.allocation),
        ("prune.compensation", "compensation", prune.compensation),
        ("cut", "passes", recipe.cut),
        ("recover.learner", "training", recipe.learner),
        *(("before", "passes", spec) for spec in recipe.before),
        *(("after", "passes", spec) for spec in recipe.after),
    ]
    for key, kind, spec in specs:
        try:
            if spec is None:
                continue
            made = make_declared(kind, spec)
            made = parse_spec(kind, spec) if imported else made
            if "vocabulary" in (getattr(made, "kinds", None) or ()):
                raise UsageError("tokens are cut before anything else; name vocabulary in prune.kinds")
        except UsageError as error:
            raise type(error)(f"{label(key)}: {error}") from error
    try:
        prune.check()
    except UsageError as error:
        field = str(error).split(maxsplit=1)[0]
        raise UsageError(f"{label(f'prune.{field}')}: {error}") from error
    for what in prune.kinds:
        check_choice(label("prune.kinds"), what.removesuffix("?"), (AUTO, *PRUNABLE))
    check_stages(recipe, label)
    if imported and recipe.learner is not None:
        check_learner(recipe.learner, recipe.stages, recipe.cuts_units, label)
    if AUTO in prune.kinds and len(prune.kinds) > 1:
        raise UsageError(f"{label('prune.kinds')}: auto stands alone; name the kinds instead")
    sparsify = {k: v for k, v in (recipe.sparsify or {}).items() if v is not None or recipe.learner is None}
    for name, options in (("recover", recipe.recover), ("sparsify", sparsify)):
        check_options(name, options or {}, label, imported)


def check_stages(recipe: Recipe, label: Label) -> None:
    """Raise UsageError for an order of cuts where there are no two, and for stages where the cut is learned."""
    if recipe.order != "together" and (recipe.stages < 2 or len(split_kinds(recipe.prune.kinds)) < 2):
        raise UsageError(
            f"{label('order')}: {recipe.order} is of 2 stages or more, and of kinds that are units and blocks or layers"
        )
    if recipe.learns and recipe.stages > 1:
        raise UsageError(f"{label('cut')}: {recipe.cut[:40]} cuts in one stage; leave stages out")


def split_kinds(kinds: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The kinds that are units, and those that are blocks; without what there is none of."""
    units = tuple(kind for kind in kinds if kind not in WHOLE)
    return tuple(filter(None, (units, tuple(kind for kind in kinds if kind in WHOLE))))


def check_options(name: str, options: Options, label: Label, imported: bool) -> None:
    """Every option is one of the pass of this name and of its type. Raises UsageError."""
    cls = registry.load("passes", name) if imported else declare(registry.find("passes", name))
    if cls is None:
        return
    for key in options:
        if name == "recover" and key in _SCHEDULED:
            raise UsageError(
                f"{label(f'recover.{key}')} is set for each stage; leave it out, and give tokens and stages"
            )
        if key not in option_types(cls):
            guess = did_you_mean(key, list(option_types(cls))) or "`graphprune list passes` has all"
            raise UsageError(f"{label(f'{name}.{key}')} is no option of {name}; {guess}")
    for key, value in options.items():
        try:
            build(cls, name, {key: option_text(value)})
        except UsageError as error:
            raise UsageError(f"{label(f'{name}.{key}')}: {error}") from error
