"""docs/design.md shows the layers as the architecture test holds them, and the docs name files that exist."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.tree import BESIDE, LAYERS, ROOT, ROOT_MODULES, SOURCES
from tests.test_docs import PAGES, name_of

DESIGN = ROOT / "docs" / "design.md"
PICTURE = re.compile(r"(<!-- layers[^\n]*-->\n\n)(.*?)(\n\n<!-- end of layers -->)", re.DOTALL)


def said(package: str) -> str:
    return (ast.get_docstring(ast.parse(SOURCES[f"graphprune.{package}"].read_text(encoding="utf-8"))) or "").split(
        "\n"
    )[0]


def picture() -> str:
    """The order as a drawing: what is written further up imports nothing of what stands below it."""
    roots = f"    {'root modules':<13} {' '.join(ROOT_MODULES)}"
    rows = [f"    {package:<13} {said(package)}" for package in LAYERS]
    sides = [f"    {f'{package}/':<13} {said(package)}" for package in BESIDE]
    return "\n".join([roots, *rows, "", "    beside them, found by the registry:", *sides])


def test_the_page_shows_the_layers_as_they_are(request: pytest.FixtureRequest) -> None:
    text = DESIGN.read_text(encoding="utf-8")
    found = PICTURE.search(text)
    assert found is not None
    if request.config.getoption("--update-golden"):
        DESIGN.write_text(text[: found.start(2)] + picture() + text[found.end(2) :], encoding="utf-8")
        return
    assert found[2] == picture(), "run `make golden`"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_files_of_ours_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:graphprune|passes|backends|tests|benchmarks)/[\w/.-]+\.\w+)`", page.read_text(encoding="utf-8")
    )
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_of_ours_that_a_page_names_exist(page: Path) -> None:
    for name in re.findall(r"\bgraphprune(?:\.[a-z_]+)+\b", page.read_text(encoding="utf-8")):
        owner, _, last = name.rpartition(".")
        home = SOURCES.get(name) or SOURCES.get(owner)
        known = name in SOURCES or (home is not None and last in home.read_text(encoding="utf-8"))
        assert known or name.startswith(("graphprune.axis_rules", "graphprune.importance")), f"{name} is not there"
