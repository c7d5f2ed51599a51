"""Cells: one model each, of a method, a target, a seed and tokens to recover on, and the key that it is kept under."""

import hashlib
import importlib.util
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import graphprune
from graphprune import registry
from graphprune.comparison.methods import DENSE, Method, printable
from graphprune.comparison.options import WINDOW, CompareOptions, read_tokens
from graphprune.data.fingerprints import fingerprint, hash_file
from graphprune.json_data import Json, JsonObject
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import Recipe
from graphprune.pipeline.resolution import resolve_recipe
from graphprune.spec import split_spec

_KEY = 16  # letters
_NOT_OF_THE_RESULT = {"name", "summary", "source"}


@dataclass(frozen=True)
class Protocol:
    """How every model is measured: on which text in which windows, and on which tasks."""

    text: str
    field: str
    window: int
    stride: int | None
    bos: bool
    text_bytes: int | None
    text_tokens: int | None
    tasks: tuple[str, ...]
    eval_data: Path | None
    task_limit: int | None


@dataclass(frozen=True)
class CellPlan:
    """A cell that is to be measured; the dense one has no options and stands for the model as it is."""

    key: str
    method: str
    target: str
    seed: int
    tokens: int
    asked: CompileOptions
    recipe: Recipe
    protocol: Protocol

    @property
    def dense(self) -> bool:
        return self.method == DENSE

    @property
    def title(self) -> str:
        """What it is, for a line of progress."""
        trained = f", {self.tokens:,} tokens" if self.tokens else ""
        return self.method if self.dense else f"{self.method} at {self.target}, seed {self.seed}{trained}"


def plan_cells(options: CompareOptions, methods: tuple[Method, ...], folder: Path) -> tuple[CellPlan, ...]:
    """All cells of a comparison, the dense model first, then seed by seed; `folder` is where the model is.

    Plug-ins are known by name alone: nothing of them is imported. Raises UsageError, DataError.
    """
    protocol, known = protocol_of(options), fingerprints(options, folder)
    order = itertools.product(range(options.seeds), options.train_tokens, options.targets, methods)
    dense = Method(DENSE, "taylor")
    rows = [(0, "0", "100%", dense), *order]
    found = []
    for seed, tokens, target, method in rows:
        asked = compile_options(options, method, target, seed, read_tokens(tokens))
        recipe = resolve_recipe(asked, plugins=False)
        made = None if method is dense else describe_making(asked, recipe)
        key = hash_of({**known, "made": made})
        found.append(CellPlan(key, method.name, target, seed, read_tokens(tokens), asked, recipe, protocol))
    return tuple(found)


def protocol_of(options: CompareOptions) -> Protocol:
    assert options.held_out is not None
    return Protocol(
        options.held_out,
        options.field,
        options.window or WINDOW,
        options.stride,
        options.bos,
        options.text_bytes,
        options.text_tokens,
        options.tasks,
        options.eval_data,
        options.task_limit,
    )


def compile_options(options: CompareOptions, method: Method, target: str, seed: int, tokens: int) -> CompileOptions:
    """What `compile` would be asked for: a method goes the same way in both.

    What `compile` holds out is what recovery keeps its best weights by, which is the text for choices here.
    """
    assert options.data is not None
    untrained = () if tokens else ("recover=null",)  # after all others, so that nothing is trained
    return CompileOptions(
        options.model,
        target_params=target,
        out=Path("cell"),
        method=method.recipe,
        importance=method.importance,
        allocation=method.allocation,
        compensation=method.compensation,
        samples=options.samples,
        length=options.length,
        train_tokens=str(tokens) if tokens else None,
        settings=(*options.settings, *method.settings, *untrained),
        data=options.data,
        field=options.field,
        held_out=options.search,
        seed=seed,
        trust_remote_code=options.trust_remote_code,
        device=options.device,
        precision=options.precision,
        part="text",
    )


def fingerprints(options: CompareOptions, folder: Path) -> JsonObject:
    """All that every cell depends on: the model, the texts, how is measured, and the version."""
    assert options.data is not None
    protocol = protocol_of(options)
    measured: JsonObject = {
        name: value if isinstance(value, (int, str)) else None
        for name, value in vars(replace(protocol, text="", eval_data=None)).items()
    }
    return {
        "version": version("graphprune"),
        "model": content(str(folder)),
        "data": content(options.data),
        "search": content(options.search) if options.search else None,
        "held_out": content(protocol.text),
        "measured": measured,
        "tasks": list(options.tasks),
        "eval_data": content(str(options.eval_data)) if options.eval_data is not None else None,
        "device": options.device,
        "precision": options.precision,
    }


@cache
def content(spec: str) -> Json:
    """What a source holds, wherever it lies: its hash, or the name where it is none of this machine."""
    found = fingerprint(spec)
    _, mark, part = spec.rpartition("#")
    return [found.get("blake2b") or found["name"], part if mark else ""]


def describe_making(asked: CompileOptions, recipe: Recipe) -> JsonObject:
    """All that the model of a cell depends on beside the fingerprints.

    Fields at their defaults are left out, so that one that recipes gain later does not make cells of before others.
    """
    return {
        "recipe": recipe.model_dump(mode="json", exclude=_NOT_OF_THE_RESULT, exclude_defaults=True),
        "plugins": dict(third_parties(recipe)),
        "target": asked.target_params,
        "seed": asked.seed,
    }


def third_parties(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The plug-ins of others that a recipe names, each with its distribution's version and its module's hash."""
    prune = recipe.prune
    specs: dict[registry.PluginKind, tuple[str | None, ...]] = {
        "importance": (prune.importance,),
        "allocation": (prune.allocation,),
        "compensation": (prune.compensation,),
        "passes": (recipe.cut, *recipe.before, *recipe.after),
    }
    for kind, spec in ((kind, spec) for kind, own in specs.items() for spec in own if spec is not None):
        point = registry.find(kind, split_spec(spec)[0])
        if registry.distribution_name(point) != "graphprune":
            yield f"{kind} {point.name}", f"{point.dist.version if point.dist else ''} {hash_of_module(point.module)}"


def hash_of_module(name: str) -> str:
    """The hash of a module's file; nothing where it has none that is found without importing it."""
    spec = importlib.util.find_spec(name.partition(".")[0])
    path = Path(spec.origin) if spec is not None and spec.origin is not None else None
    return hash_file(path) if path is not None and path.is_file() else ""


@cache
def code_hash() -> str:
    """The hash of all code of graphprune, to say so where cells were measured by another state of it."""
    digest = hashlib.blake2b(digest_size=_KEY // 2)
    for path in code_files(Path(graphprune.__path__[0])):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def code_files(root: Path) -> list[Path]:
    """The files of code, those behind links among them."""
    folders = [root, *(path.resolve() for path in root.iterdir() if path.is_symlink() and path.is_dir())]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def recipe_of(plan: CellPlan) -> dict[str, Any]:
    """The recipe with all its fields, as a report has it."""
    text = printable(json.dumps(plan.recipe.model_dump(mode="json"), ensure_ascii=False))
    found: dict[str, Any] = json.loads(text)
    return found


def hash_of(data: Mapping[str, Json]) -> str:
    text = json.dumps(data, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=_KEY // 2).hexdigest()
