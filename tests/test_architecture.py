"""What the folders may know of each other, how long things may be, and that the packaging says what the tree holds."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

import graphprune
from graphprune import registry

ROOT = Path(__file__).parent.parent
FOLDERS = {"graphprune": "graphprune", "passes": "graphprune.passes", "backends": "graphprune.backends"}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
FORBIDDEN = re.compile(r"model_type\s*[=!]=|torch\.(load|save)\(|\bimport c?[pP]ickle|\bpickle\.loads?\(")
PUBLIC = {
    "Allocation",
    "CompileOptions",
    "Context",
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
    "parse_spec",
    "read_plan",
    "read_recipe",
    "run_passes",
    "run_recipe",
}


def files(folder: str) -> list[Path]:
    """The Python files below a top-level folder, without those behind the links from graphprune/."""
    found = (path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)
    return sorted(path for path in found if not any(parent.is_symlink() for parent in path.parents))


def module_name(path: Path) -> str:
    """The name under which a file is imported: passes/x.py is graphprune.passes.x."""
    folder, *parts = path.relative_to(ROOT).with_suffix("").parts
    names = [FOLDERS.get(folder, folder), *parts]
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


SOURCES = {module_name(path): path for folder in FOLDERS for path in files(folder)}
TESTS = {module_name(path): path for path in files("tests")}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in (SOURCES | TESTS).items()}


def imports(name: str) -> Iterator[str]:
    """Every module that a file imports, at its top or inside a function."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def forbidden_packages(name: str) -> tuple[str, ...]:
    """The packages that a file may not import."""
    kinds = [f"graphprune.passes.{kind}" for kind in ("importance", "allocation", "compensation", "transforms")]
    if within(name, "graphprune.passes"):
        own = [kind for kind in kinds if within(name, kind)]
        return ("graphprune.backends", "graphprune.cli", *(kind for kind in kinds if kind not in own))
    if within(name, "graphprune.backends"):
        return ("graphprune.passes", "graphprune.cli")
    concrete = ("graphprune.passes", "graphprune.backends")
    return concrete if within(name, "graphprune.cli") else (*concrete, "graphprune.cli")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_imports_go_in_the_allowed_direction(name: str) -> None:
    wrong = [i for i in imports(name) for package in forbidden_packages(name) if within(i, package)]
    assert not wrong, f"{name} imports {wrong}"
    assert not [i for i in imports(name) if within(i, "tests")], "nothing imports the tests"


@pytest.mark.parametrize("name", sorted(SOURCES | TESTS))
def test_passes_and_backends_have_one_name_each(name: str) -> None:
    bare = [i for i in imports(name) if within(i, "passes") or within(i, "backends")]
    assert not bare, f"{name} imports {bare}: a second identity of the same classes; write graphprune.{bare[0]}"


@pytest.mark.parametrize("name", sorted(SOURCES | TESTS))
def test_files_and_functions_are_short(name: str) -> None:
    path = (SOURCES | TESTS)[name]
    length = len(path.read_text(encoding="utf-8").splitlines())
    assert length <= LONGEST_FILE, f"{path} has {length} lines"
    for node in ast.walk(TREES[name]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{path}:{node.lineno} {node.name}: {lines} lines"


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_nothing_asks_for_an_architecture_or_reads_a_pickle(name: str) -> None:
    text = SOURCES[name].read_text(encoding="utf-8")
    found = [line.strip() for line in text.splitlines() if FORBIDDEN.search(line)]
    assert not found, f"{name}: {found}"


# Formats whose files name architectures, and the names of ours.
NAMING = {f"graphprune.backends.gguf.{name}" for name in ("backend", "shapes", "tokens")}


@functools.cache
def architectures() -> frozenset[str]:
    """Every model type and model class that transformers knows, but for those that are ordinary words."""
    from transformers.models.auto import configuration_auto, modeling_auto

    mappings = [vars(modeling_auto)[n] for n in dir(modeling_auto) if n.endswith("_MAPPING_NAMES")]
    values = [v for mapping in mappings for v in mapping.values()]
    classes = {name for v in values for name in ([v] if isinstance(v, str) else v)}
    return frozenset(classes | set(configuration_auto.CONFIG_MAPPING_NAMES)) - {"", "clip", "bit"}


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - NAMING))
def test_nothing_knows_an_architecture_by_name(name: str) -> None:
    """No text in the code is a model type or the name of a model's class or of its file of code."""
    tree = ast.parse(SOURCES[name].read_text(encoding="utf-8"))
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert not texts & architectures()
    assert not [text for text in texts if re.match(r"transformers\.models\.(?!auto)\w", text)]


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
    """A class below passes/ or backends/ that gives itself a name."""
    if not isinstance(node, ast.ClassDef) or not name.startswith(("graphprune.passes.", "graphprune.backends.")):
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
