"""What may know of what: the order of the layers, by imports and by texts."""

import ast
import functools
import re
from collections.abc import Iterator

import pytest

from tests.support.tree import (
    BACKENDS_USE,
    BESIDE,
    LAYERS,
    PASSES_USE,
    ROOT,
    ROOT_MODULES,
    SOURCES,
    TESTS,
    TREES,
    imports,
    part,
    within,
)


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


@pytest.mark.parametrize("name", sorted(name for name in SOURCES if within(name, "graphprune")))
def test_the_core_names_no_backend_by_its_module(name: str) -> None:
    if not within(name, "graphprune.backends"):
        texts = {n.value for n in ast.walk(TREES[name]) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        assert not [text for text in texts if within(text, "graphprune.backends") and text != "graphprune.backends"]


def test_what_is_run_as_a_module_can_be() -> None:
    """`python -m NAME` in the code and in the docs names a module that does something when it is run."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *SOURCES.values(), *TESTS.values(), ROOT / "Makefile"]
    texts = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    named = set(re.findall(r'-m"?,? "?(graphprune(?:\.[a-z_]+)+)', texts))
    assert named, "the check of artefacts runs in a process of its own"
    for module in named:
        assert module in SOURCES, f"{module} is no module"
        assert "__main__" in SOURCES[module].read_text(encoding="utf-8"), f"{module} does nothing when it is run"


def does_something(name: str) -> bool:
    """Whether a module holds functions; what holds types alone is checked by mypy."""
    return any(isinstance(node, ast.FunctionDef) for node in ast.walk(TREES[name]))


CORE = sorted(
    name
    for name, path in SOURCES.items()
    if part(name) not in BESIDE and path.name != "__init__.py" and does_something(name)
)


@functools.cache
def imported_by_tests() -> frozenset[str]:
    return frozenset(name for test in TESTS for name in imports(test))


@pytest.mark.parametrize("name", CORE)
def test_every_module_of_the_core_is_named_by_a_test(name: str) -> None:
    assert any(within(found, name) for found in imported_by_tests()), f"no test imports anything from {name}"


@pytest.mark.parametrize("name", sorted(SOURCES | TESTS))
def test_passes_and_backends_have_one_name_each(name: str) -> None:
    bare = [i for i in imports(name) if within(i, "passes") or within(i, "backends")]
    assert not bare, f"{name} imports {bare}: a second identity of the same classes; write graphprune.{bare[0]}"
