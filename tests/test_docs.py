"""The documents name only what exists: files they link to, commands, options, public names."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import typer.main
import yaml

import graphprune
from graphprune.cli.main import make_app

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMANDS = {
    name: {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    for name, command in typer.main.get_command(make_app()).commands.items()
}  # type: ignore[attr-defined]
LAUNCHERS_OPTIONS = {"--nproc-per-node", "--no-python", "--multi_gpu", "--num_processes", "--no_python", "--use_fsdp"}
GPU_OPTIONS = {"--tiny", "--list", "--table", "--page", "--limit", "--data-root", "--wheels", "--work", "--out"}
GPU_OPTIONS |= {"--model", "--pieces", "--piece", "--split", "--onnxruntime-gpu"}
OTHERS_OPTIONS = {"--debug", "--version", "--help", "--update-golden", "--strict", "--suite", "--stand-in"}
OTHERS_OPTIONS |= LAUNCHERS_OPTIONS | GPU_OPTIONS | {"--kills", "--before", "--after", "--only", "--count"}
OTHERS_OPTIONS |= {"--drop", "--calibration", "--held"}  # of benchmarks/depth_pairs.py
OTHERS_OPTIONS |= {"--picture"}  # of benchmarks/web_runtime.py
OTHERS_OPTIONS |= {"--image", "--target"}  # of examples
OTHERS_OPTIONS |= {"--real", "--rows", "--patterns"}  # of benchmarks
OTHERS_OPTIONS |= {"--size", "--prompt", "--skew", "--cold"}  # of benchmarks/offload.py


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = re.findall(r"(?m)(?:^ {4}|`)graphprune ([a-z]+)", text)
    assert not [command for command in commands if command not in COMMANDS]
    known = OTHERS_OPTIONS.union(*COMMANDS.values())
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", text))
    assert options <= known, options - known


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_in_the_docs_parses_and_uses_public_names(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "graphprune":
                assert node.attr in graphprune.__all__


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {command for command in COMMANDS if f"graphprune {command}" in text} == set(COMMANDS)


def test_the_plugin_shown_is_the_one_that_is_tested() -> None:
    shown = (ROOT / "docs" / "writing-a-pass.md").read_text(encoding="utf-8")
    source = (ROOT / "tests" / "plugin" / "graphprune_example.py").read_text(encoding="utf-8")
    assert source[source.index("@final") :].strip() in shown


def test_the_site_has_every_page_and_every_public_name() -> None:
    # its Python handler's options are written in one line, which YAML reads as any
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = list(leaves(site["nav"]))
    pages = [str(page.relative_to(ROOT / "docs")) for page in PAGES if "docs" in page.parts]
    own = {page for page in pages if not page.startswith("decisions/") and page != "releasing.md"}
    own |= {f"notebooks/{path.name}" for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")}
    assert set(named) == own
    assert len(named) == len(own), "a page is named twice"
    reference = re.findall(r"(?m)^::: ([\w.]+)$", (ROOT / "docs" / "reference.md").read_text(encoding="utf-8"))
    found = {id(getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2])) for name in reference}
    assert found == {id(getattr(graphprune, name)) for name in graphprune.__all__}


def leaves(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for each in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from leaves(each)


def test_the_page_that_says_which_method_is_what_the_tables_make() -> None:
    made = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "which_method.py"), "--check"], check=False)
    assert made.returncode == 0, "run benchmarks/which_method.py"
