"""What the folders may know of each other, how long things may be, and that the packaging says what the tree holds."""

import ast
import functools
import importlib
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

import graphprune
from graphprune import registry

ROOT = Path(__file__).parent.parent
FOLDERS = {"graphprune": "graphprune", "passes": "graphprune.passes", "backends": "graphprune.backends"}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
# The one order of the core: a package imports only what stands before it. docs/design.md shows it as a picture.
ROOT_MODULES = (
    "errors",
    "progress",
    "suggestions",
    "amounts",
    "context",
    "registry",
    "spec",
    "processes",
    "drivers",
    "demo",
    "generic",
)
LAYERS = (
    "ir",
    "data",
    "models",
    "running",
    "axes",
    "frontend",
    "analysis",
    "budget",
    "rewriting",
    "pruning",
    "vocabulary",
    "training",
    "pipeline",
    "artefacts",
    "evaluation",
    "reporting",
    "compiler",
    "cli",
)
# What stands beside the core, and what of it may be used there. Kinds of passes know nothing of each other.
PASSES_USE = (*ROOT_MODULES, *LAYERS[: LAYERS.index("artefacts")])
BACKENDS_USE = (*ROOT_MODULES, "ir", "budget", "running")
BESIDE = ("passes", "backends")
LONGEST_FILE, LONGEST_FUNCTION = 350, 60
FEWEST_FILES, MOST_FILES = 4, 15
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


def part(name: str) -> str:
    """The root module or package that a module of the core belongs to: `ir` for graphprune.ir.graph."""
    return name.split(".")[1] if name.count(".") else ""


def usable(name: str) -> tuple[str, ...]:
    """The parts that a file may import."""
    own = part(name)
    if own == "passes":
        kind = name.split(".")[2] if name.count(".") > 1 else ""
        return (*PASSES_USE, f"passes.{kind}")
    if own == "backends":
        return (*BACKENDS_USE, own)
    if own in ROOT_MODULES:
        return ROOT_MODULES
    return (*ROOT_MODULES, *LAYERS[: LAYERS.index(own) + 1])


def against_the_order(name: str) -> list[str]:
    allowed = [f"graphprune.{each}" for each in usable(name)]
    ours = [i for i in imports(name) if within(i, "graphprune") and i.count(".")]
    return [i for i in ours if not any(within(i, package) for package in allowed)]


# graphprune/__init__.py gives out the public names and stands above all.
@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"graphprune"}))
def test_imports_go_in_the_allowed_direction(name: str) -> None:
    assert not against_the_order(name), f"{name} imports {against_the_order(name)}; see LAYERS"
    assert not [i for i in imports(name) if within(i, "tests")], "nothing imports the tests"


def test_every_part_of_the_core_has_its_place_in_the_order() -> None:
    parts = {part(name) for name in SOURCES if part(name)}
    assert parts == {*ROOT_MODULES, *LAYERS, *BESIDE}


def texts_of_modules(name: str) -> Iterator[str]:
    """Every text of a file that reads like one of our modules: what is imported by text, run by `-m`, or loaded."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"\bgraphprune\.[a-z_]+(?:\.[a-z_]+)*", node.value) if is_code(node.value) else ()


def is_code(text: str) -> bool:
    return re.fullmatch(r"graphprune(\.\w+)+(:\w+)?", text) is not None


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"graphprune"}))
def test_modules_that_are_named_by_text_exist_and_follow_the_order(name: str) -> None:
    allowed = [f"graphprune.{each}" for each in usable(name)]
    for module in texts_of_modules(name):
        if part(module) in (*ROOT_MODULES, *LAYERS, *BESIDE):
            assert module in SOURCES, f"{name} names {module}, which is no module"
            assert any(within(module, package) for package in allowed), f"{name} reaches {module} by text"


def test_what_is_run_as_a_module_can_be() -> None:
    """`python -m NAME` in the code and in the docs names a module that does something when it is run."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *SOURCES.values(), *TESTS.values(), ROOT / "Makefile"]
    texts = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    named = set(re.findall(r'-m"?,? "?(graphprune(?:\.[a-z_]+)+)', texts))
    assert named, "the check of artefacts runs in a process of its own"
    for module in named:
        assert module in SOURCES, f"{module} is no module"
        assert "__main__" in SOURCES[module].read_text(encoding="utf-8"), f"{module} does nothing when it is run"


def test_public_names_have_the_homes_that_are_written_down() -> None:
    for name, home in graphprune._HOMES.items():
        module, _, attribute = home.partition(":")
        assert f"graphprune.{module}" in SOURCES
        assert getattr(importlib.import_module(f"graphprune.{module}"), attribute) is getattr(graphprune, name)


FOLDERS_OF_CODE = sorted({path.parent for path in SOURCES.values()})


@pytest.mark.parametrize("folder", FOLDERS_OF_CODE, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_is_a_concept_of_few_files(folder: Path) -> None:
    """4 to 15 files, packages in it counting towards the least; the demo is a model and not code."""
    modules = [*folder.glob("*.py"), *folder.glob("*.yaml")]
    packages = [path for path in folder.iterdir() if (path / "__init__.py").exists()]
    assert len(modules) <= MOST_FILES, f"{folder} holds {len(modules)} files"
    assert len(modules) + len(packages) >= FEWEST_FILES or folder.name == "demo", f"{folder} holds {len(modules)} files"


def lengths(paths: Iterable[Path]) -> list[int]:
    """The lines of every function."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in paths)
    found = (n for tree in trees for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return [(n.end_lineno or n.lineno) - n.lineno + 1 for n in found]


@pytest.mark.parametrize("folder", FOLDERS)
def test_functions_are_short_as_a_rule(folder: str) -> None:
    assert statistics.median(lengths(files(folder))) <= 7


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


def share_of_any(paths: Iterable[Path]) -> float:
    """The part of all functions that say `Any` of an argument or of what they return."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)]
    return sum(map(says_any, functions)) / len(functions)


def says_any(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    given = function.args
    arguments = (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
    found = [argument.annotation for argument in arguments if argument is not None]
    words = " ".join(ast.unparse(each) for each in (*found, function.returns) if each is not None)
    return re.search(r"\bAny\b", words) is not None


def test_backends_say_what_they_take_and_give() -> None:
    assert share_of_any(files("backends")) <= 0.20


def test_backends_catch_everything_in_one_place() -> None:
    caught = [path for path in files("backends") if "except Exception" in path.read_text(encoding="utf-8")]
    assert [path.name for path in caught] == ["attempts.py"]


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
