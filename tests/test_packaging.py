"""The packaging says what the tree holds: packages, entry points, public names; and importing costs nothing."""

import ast
import importlib
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from typing import Any

import pytest

import graphprune
from graphprune import registry
from tests.support.tree import (
    ROOT,
    SOURCES,
    TREES,
)

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PUBLIC = {
    "Allocation",
    "Backend",
    "CompileOptions",
    "Context",
    "Edit",
    "Gated",
    "Graph",
    "GraphpruneError",
    "Groups",
    "Importance",
    "Pass",
    "Plan",
    "Recipe",
    "analyze",
    "apply",
    "capture",
    "compile",
    "export",
    "fold",
    "gate",
    "inherit",
    "open_offloaded",
    "pack_semi_structured",
    "parse_spec",
    "read_plan",
    "read_recipe",
    "rotate",
    "run_passes",
    "run_recipe",
    "with_prompt_tokens",
}


def test_public_names_have_the_homes_that_are_written_down() -> None:
    for name, home in graphprune._HOMES.items():
        module, _, attribute = home.partition(":")
        assert f"graphprune.{module}" in SOURCES
        assert getattr(importlib.import_module(f"graphprune.{module}"), attribute) is getattr(graphprune, name)


def test_the_packages_listed_are_those_of_the_tree() -> None:
    found = {name for name, path in SOURCES.items() if path.name == "__init__.py"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found
    stray = {path.parent for path in SOURCES.values() if not (path.parent / "__init__.py").exists()}
    assert not stray, f"folders of modules without __init__.py: {stray}"


def table() -> dict[str, dict[str, str]]:
    return dict(PROJECT["project"]["entry-points"])


def test_the_installed_entry_points_are_those_of_the_project_file() -> None:
    installed: dict[str, dict[str, str]] = {}
    for point in distribution("graphprune").entry_points:
        if point.group.startswith("graphprune."):
            installed.setdefault(point.group, {})[point.name] = point.value
    assert installed == table(), "run `pip install -e .` again: entry points are written when a package is installed"


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, rows in table().items() for name in rows])
def test_every_entry_point_loads_under_its_own_name(group: str, name: str) -> None:
    kind = next(kind for kind in registry.PLUGIN_KINDS if registry.group_name(kind) == group)
    cls = registry.load(kind, name)
    assert cls.name == name  # type: ignore[attr-defined]
    assert (cls.__doc__ or "").strip(), "list shows the first line of the docstring"


def test_every_plugin_of_the_tree_is_in_the_table() -> None:
    listed = {value for rows in table().values() for value in rows.values()}
    found = {f"{name}:{node.name}" for name in SOURCES for node in TREES[name].body if is_plugin(name, node)}
    assert found == listed


def is_plugin(name: str, node: ast.stmt) -> bool:
    """A class below passes/, backends/ or training/ that gives itself a name."""
    places = ("graphprune.passes.", "graphprune.backends.", "graphprune.training.")
    if not isinstance(node, ast.ClassDef) or not name.startswith(places):
        return False
    named = [n for n in node.body if isinstance(n, ast.AnnAssign) and n.value is not None]
    return any(isinstance(n.target, ast.Name) and n.target.id == "name" and "ClassVar" in ast.unparse(n) for n in named)


def test_the_public_names_are_these() -> None:
    assert set(graphprune.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(graphprune, name) is not None
    assert set(dir(graphprune)) >= PUBLIC


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = graphprune.no_such_name


def test_help_starts_without_torch() -> None:
    code = "import sys, graphprune.cli.main; print([m for m in ('torch', 'transformers', 'onnx') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_backends_are_loaded_without_what_they_run() -> None:
    """A process that measures how much memory a model takes loads them too."""
    heavy = "torch", "transformers", "onnx", "onnxruntime", "sympy"
    code = f"""
import sys
from graphprune.budget.installed import backend_classes
print([c.name for c in backend_classes()], [m for m in {heavy} if m in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['decilm', 'gguf', 'huggingface', 'onnx', 'openelm', 'ort', 'web'] []"
