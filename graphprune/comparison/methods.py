"""Methods: what stands in the rows of a table, each a recipe by its name or file, or parts put together."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from graphprune import registry
from graphprune.errors import UsageError
from graphprune.pipeline.recipes import find_recipe, read_yaml, shipped
from graphprune.spec import split_spec
from graphprune.suggestions import did_you_mean

DENSE, GUESS = "dense", "uniform guess"
PARTS = ("importance", "allocation", "compensation")
_NAMED = re.compile(r"\s*([\w .,:()-]+?)\s*=(?!=)(.+)", re.DOTALL)
_BASE = "taylor"  # whose other fields methods made of parts have: one round, and no training
_LONGEST = 60


@dataclass(frozen=True)
class Method:
    """A row: what it is called, and the options of a compilation that make it.

    `importance`, `allocation` and `compensation` None are the recipe's own.
    """

    name: str
    recipe: str
    importance: str | None = None
    allocation: str | None = None
    compensation: str | None = None
    settings: tuple[str, ...] = ()


def parse_methods(texts: Iterable[str]) -> tuple[Method, ...]:
    """Read the rows of a table. Raises UsageError where one is unknown, or where two have one name."""
    found = tuple(map(parse_method, texts))
    for method in found:
        if method.name in (DENSE, GUESS):
            raise UsageError(f"a row is called {method.name} in any case; give the method another name: other={DENSE}")
        if len([each for each in found if each.name == method.name]) > 1:
            raise UsageError(f"two methods are called {method.name!r}; name one: other={method.recipe}")
    return found


def parse_method(text: str) -> Method:
    """Read `recipe`, `recipe+key=value`, `importance+allocation+compensation`, each perhaps behind `name=`."""
    named = _NAMED.fullmatch(text)
    name, body = (named[1].strip(), named[2].strip()) if named else ("", text.strip())
    if len(name) > _LONGEST:
        raise UsageError(f"the name {name[:20]}... of a method is longer than {_LONGEST} letters; shorten it")
    parts = split_parts(body)
    first, settings = parts[0], tuple(part for part in parts[1:] if is_setting(part))
    others = [part for part in parts[1:] if part not in settings]
    if is_recipe(first):
        if others:
            raise UsageError(
                f"{first} is a recipe and has its parts; set another with {first}+prune.allocation={others[0][:40]}"
            )
        return Method(printable(name or (body if settings else recipe_name(first))), first, settings=settings)
    if len(others) > len(PARTS) - 1 or not all(parts):
        raise UsageError(f"{text[:60]!r} is no method; write importance+allocation+compensation, or a recipe")
    check_importance(first)
    allocation, compensation = (*others, *["global", "none"][len(others) :])
    return Method(printable(name or body), _BASE, first, allocation, compensation, settings)


def split_parts(text: str) -> list[str]:
    """Split at each + outside braces and brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if character == "+" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def is_setting(part: str) -> bool:
    return "=" in part.partition("{")[0]


def is_recipe(text: str) -> bool:
    """Say whether a text can only be a recipe: a shipped one, or the path of a file."""
    return text in shipped() or ("{" not in text and (text.endswith((".yaml", ".yml")) or "/" in text))


def recipe_name(recipe: str) -> str:
    """The name of a shipped recipe, or what the user's file says it is called."""
    path = find_recipe(recipe)
    return recipe if recipe in shipped() else str(read_yaml(path).get("name") or path.stem)[:_LONGEST]


def check_importance(spec: str) -> None:
    """Raise UsageError for what is neither a recipe nor an importance."""
    name, _ = split_spec(spec)
    known = registry.names("importance")
    if name in known:
        return
    guess = did_you_mean(name, list(dict.fromkeys([*shipped(), *known])), 3)
    raise UsageError(
        f"no method is named {name[:60]!r}; {guess}`graphprune list methods` has the recipes, `graphprune list "
        "importance` what scores units"
    )


def printable(text: str) -> str:
    """A text without what is no character: the names of files may hold any bytes."""
    return text.encode("utf-8", "replace").decode("utf-8")
