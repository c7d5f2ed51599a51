"""Declared options: what the source of a plug-in says of them, so that a wrong one is told with nothing imported.

The fields of its dataclass are read, and those of the dataclasses that it inherits from, wherever they are written.
What the source does not tell is left to the plug-in itself, which is imported later.
"""

import ast
import importlib.util
import re
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, make_dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint
from pathlib import Path
from types import EllipsisType
from typing import Any, final

import annotated_types

from graphprune import registry
from graphprune.bounds import require_limits
from graphprune.spec import build, split_spec

_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "tuple": tuple, "list": list}
_LIBRARIES = {"typing": typing, "annotated_types": annotated_types}
_BOUNDS = (annotated_types.Ge, annotated_types.Gt, annotated_types.Le, annotated_types.Lt)
# Options of passes that are specs, and of which kind.
_NESTED: tuple[tuple[str, registry.PluginKind], ...] = (
    ("importance", "importance"),
    ("allocation", "allocation"),
    ("compensation", "compensation"),
    ("learner", "training"),
)


class UntoldError(Exception):
    """The source does not tell."""


@final
@dataclass(frozen=True)
class Source:
    """A module that is read and not imported: its name, and what its top level gives a name to."""

    module: str
    names: dict[str, ast.stmt]


def make_declared(kind: registry.PluginKind, text: str) -> Any:
    """What a spec gives its plug-in, as `declare` has it; None where the source does not tell.

    Raises UsageError for a wrong option, also of a spec among the options, and RegistryError where there is no plug-in.
    """
    name, options = split_spec(text)
    declared = declare(registry.find(kind, name))
    made = None if declared is None else build(declared, name, options)
    for option, inner in _NESTED if kind == "passes" else ():
        if isinstance(spec := getattr(made, option, None), str):
            make_declared(inner, spec)
    return made


def declare(point: EntryPoint) -> type | None:
    """A dataclass of the options of a plug-in, all None unless they are given; None where its source does not tell."""
    try:
        found = read_fields(read_source(point.module), point.attr)
    except (UntoldError, RecursionError):
        return None

    def check(options: object) -> None:
        require_limits(options, point.name)

    fields = [(name, kind, field(default=None)) for name, kind in found.items()]
    own = {"__post_init__": check, "name": point.name}
    return make_dataclass("Declared", fields, frozen=True, kw_only=True, namespace=own)


def read_source(module: str) -> Source:
    """Read a module. Raises UntoldError where it is not written in Python, or not found."""
    try:
        path = find_file(module)
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, ImportError, AttributeError) as error:
        raise UntoldError(module) from error
    return Source(module, {name: node for node in tree.body for name in bound_names(node)})


def find_file(module: str) -> Path:
    """The file of a module; the packages around it are not imported, as `importlib.util.find_spec` would."""
    package, *parts = module.split(".")
    spec: ModuleSpec | None = importlib.util.find_spec(package)
    for part in parts:
        package = f"{package}.{part}"
        spec = None if spec is None else PathFinder.find_spec(package, spec.submodule_search_locations)
    if spec is None or spec.origin is None:
        raise UntoldError(module)
    return Path(spec.origin)


def bound_names(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case ast.Assign(targets=[ast.Name(id=name)]):
            yield name
        case ast.ImportFrom(level=0, names=aliases):
            yield from (alias.asname or alias.name for alias in aliases)


def imported(node: ast.ImportFrom, name: str) -> tuple[str, str]:
    """Where a name comes from: the module, and what it is called there."""
    assert node.module is not None
    return node.module, next(alias.name for alias in node.names if name in (alias.name, alias.asname))


def read_fields(source: Source, name: str) -> dict[str, Any]:
    """The fields of a class by name, those of its bases first. Raises UntoldError."""
    match source.names.get(name):
        case ast.ImportFrom() as node:
            module, there = imported(node, name)
            outside = module.split(".")[0] in sys.stdlib_module_names
            return {} if outside else read_fields(read_source(module), there)
        case ast.ClassDef(bases=bases, decorator_list=decorators, body=body):
            found: dict[str, Any] = {}
            for base in reversed(bases):
                found |= read_fields(source, base_name(base))
            return found | (dict(own_fields(source, body)) if any(map(is_dataclass, decorators)) else {})
    raise UntoldError(name)


def base_name(base: ast.expr) -> str:
    match base:
        case ast.Name(id=name) | ast.Subscript(value=ast.Name(id=name)):
            return name
    raise UntoldError(ast.unparse(base))


def is_dataclass(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(called) in ("dataclass", "dataclasses.dataclass")


def own_fields(source: Source, body: list[ast.stmt]) -> Iterator[tuple[str, Any]]:
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default = "" if node.value is None else ast.unparse(node.value)
            kept = re.match(r"(dataclasses\.)?field\(.*\binit=False", default) is None
            if kept and not re.match(r"(typing\.)?ClassVar\b", ast.unparse(node.annotation)):
                yield node.target.id, read_annotation(source, node.annotation)


def read_annotation(source: Source, node: ast.expr) -> Any:
    """The type of a field; Any where the source does not tell."""
    try:
        return evaluate(source, node)
    except (UntoldError, TypeError):
        return Any


def evaluate(source: Source, node: ast.expr) -> Any:
    """What an annotation stands for: types, choices and bounds, and nothing that would have to be run."""
    match node:
        case ast.Constant(value=str() | int() | float() | None | EllipsisType() as value):
            return value
        case ast.Name(id=name):
            return find_type(source, name)
        case ast.Tuple(elts=parts):
            return tuple(evaluate(source, part) for part in parts)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return evaluate(source, left) | evaluate(source, right)
        case ast.Subscript(value=outer, slice=inner):
            return evaluate(source, outer)[evaluate(source, inner)]
        case ast.Call(func=bound, args=[limit], keywords=[]) if (made := evaluate(source, bound)) in _BOUNDS:
            return made(evaluate(source, limit))
    raise UntoldError(ast.unparse(node))


def find_type(source: Source, name: str) -> Any:
    match source.names.get(name):
        case None if name in _TYPES:
            return _TYPES[name]
        case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
            return evaluate(source, value)
        case ast.ImportFrom() as node:
            module, there = imported(node, name)
            if module in _LIBRARIES and hasattr(_LIBRARIES[module], there):
                return getattr(_LIBRARIES[module], there)
            return find_type(read_source(module), there)
    raise UntoldError(name)
