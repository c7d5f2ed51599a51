"""The tree: the files of the project by the names they are imported by, their syntax, and the order of the layers."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDERS = {"graphprune": "graphprune", "passes": "graphprune.passes", "backends": "graphprune.backends"}

# The one order of the core: a package imports only what stands before it. docs/design.md shows it as a picture.
ROOT_MODULES = (
    "errors",
    "progress",
    "suggestions",
    "amounts",
    "bounds",
    "json_data",
    "paths",
    "garbage",
    "context",
    "registry",
    "spec",
    "processes",
    "threads",
    "drivers",
    "demo",
    "generic",
)
LAYERS = (
    "weights",
    "ir",
    "data",
    "models",
    "running",
    "encoders",
    "axes",
    "frontend",
    "analysis",
    "budget",
    "runtimes",
    "edits",
    "rewriting",
    "gates",
    "pruning",
    "vocabulary",
    "training",
    "pipeline",
    "artefacts",
    "evaluation",
    "offload",
    "reporting",
    "compiler",
    "comparison",
    "sweeping",
    "cli",
)
# What stands beside the core, and what of it may be used there. Kinds of passes know nothing of each other.
PASSES_USE = (*ROOT_MODULES, *LAYERS[: LAYERS.index("artefacts")])
BACKENDS_USE = (*ROOT_MODULES, "weights", "ir", "budget", "running")
BESIDE = ("passes", "backends")


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
