"""How code is written: lengths of files and functions, folders, types, and what may stand in it."""

import ast
import functools
import re
import statistics
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.tree import (
    FOLDERS,
    ROOT,
    SOURCES,
    TESTS,
    TREES,
    files,
)

LONGEST_FILE, LONGEST_FUNCTION = 350, 60
FEWEST_FILES, MOST_FILES = 4, 15
FORBIDDEN = re.compile(r"model_type\s*[=!]=|torch\.(load|save)\(|\bimport c?[pP]ickle|\bpickle\.loads?\(")


FOLDERS_OF_CODE = sorted({path.parent for path in SOURCES.values()})


@pytest.mark.parametrize("folder", FOLDERS_OF_CODE, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_is_a_concept_of_few_files(folder: Path) -> None:
    """4 to 15 files, packages in it counting towards the least; the demo is a model and not code.

    A kind of plug-in has a folder of its own, however few there are.
    """
    modules = [*folder.glob("*.py"), *folder.glob("*.yaml")]
    packages = [path for path in folder.iterdir() if (path / "__init__.py").exists()]
    is_free = folder.name == "demo" or folder.parent.name == "passes"
    assert len(modules) <= MOST_FILES, f"{folder} holds {len(modules)} files"
    assert len(modules) + len(packages) >= FEWEST_FILES or is_free, f"{folder} holds {len(modules)} files"


def lengths(paths: Iterable[Path]) -> list[int]:
    """The lines of every function."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in paths)
    found = (n for tree in trees for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return [(n.end_lineno or n.lineno) - n.lineno + 1 for n in found]


@pytest.mark.parametrize("folder", FOLDERS)
def test_functions_are_short_as_a_rule(folder: str) -> None:
    assert statistics.median(lengths(files(folder))) <= 7


@pytest.mark.parametrize("name", sorted(SOURCES | TESTS))
def test_files_and_functions_are_short(name: str) -> None:
    path = (SOURCES | TESTS)[name]
    length = len(path.read_text(encoding="utf-8").splitlines())
    assert length <= LONGEST_FILE, f"{path} has {length} lines"
    for node in ast.walk(TREES[name]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{path}:{node.lineno} {node.name}: {lines} lines"


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


def test_the_core_says_what_it_takes_and_gives() -> None:
    """`Any` is for what comes from torch's dispatch and the insides of models."""
    core = [path for path in files("graphprune") if path.name != "modeling_graphprune.py"]
    assert share_of_any(core) <= 0.10


# Where everything is caught, and why: code of others in the core (its one place) and in backends, which try one form
# after another; the ends of a process, where an error becomes a line; a file that comes with checkpoints.
CATCHES_ALL = {
    "graphprune.errors",
    "graphprune.backends.attempts",
    "graphprune.cli.main",
    "graphprune.artefacts.check_process",
    "graphprune.generic.program_graphprune",
}


def test_everything_is_caught_in_five_places_alone() -> None:
    pattern = re.compile(r"except (Exception|BaseException)\b|except:")
    found = {name: len(pattern.findall(path.read_text(encoding="utf-8"))) for name, path in SOURCES.items()}
    assert {name: count for name, count in found.items() if count} == dict.fromkeys(CATCHES_ALL, 1)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_nothing_asks_for_an_architecture_or_reads_a_pickle(name: str) -> None:
    text = SOURCES[name].read_text(encoding="utf-8")
    found = [line.strip() for line in text.splitlines() if FORBIDDEN.search(line)]
    assert not found, f"{name}: {found}"


# Formats whose files name architectures, and the names of ours; the one type that generic checkpoints stand under.
NAMING = {f"graphprune.backends.gguf.{name}" for name in ("backend", "shapes", "tokens")} | {
    "graphprune.backends.layered.decilm_form",
    "graphprune.backends.layered.openelm_form",
    "graphprune.backends.web.config",
    "graphprune.generic.configuration_graphprune",
}


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
