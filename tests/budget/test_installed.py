"""Backends by spec and by what they open; a class of somebody else's that is no backend is named, with the remedy."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import pytest

from graphprune import Graph, registry
from graphprune.artefacts.export import load_backends, write_all
from graphprune.budget.backend import Backend
from graphprune.budget.installed import backend_class, load_backend, open_model, opener_of
from graphprune.budget.targets import file_quantities
from graphprune.errors import GraphpruneError, RegistryError, UsageError
from tests.support.families import graph as family


@final
@dataclass(frozen=True)
class Names(Backend):
    """Write the names of the parameters: the least that is a backend."""

    name: ClassVar[str] = "names"
    files: ClassVar[tuple[str, ...]] = ("*.txt",)
    sep: str = " "

    def export(self, graph: Graph, folder: Path) -> list[Path]:
        path = folder / self.place / "names.txt"
        path.parent.mkdir(parents=True)
        path.write_text(self.sep.join(graph.parameters()), encoding="utf-8")
        return [path]


class Duck:
    """It has the methods, and is no subclass."""

    name = "duck"

    def export(self, graph: Graph, folder: Path) -> list[Path]:
        return []


@pytest.fixture
def third_parties(monkeypatch: pytest.MonkeyPatch) -> None:
    others: dict[str, type] = {"names": Names, "duck": Duck}
    load = registry.load

    def find(kind: registry.PluginKind, name: str) -> Any:
        return others.get(name) or load(kind, name)

    monkeypatch.setattr(registry, "load", find)
    monkeypatch.setattr(registry, "names", lambda kind: ("duck", "names", "onnx"))


@pytest.mark.usefixtures("third_parties")
def test_the_least_backend_writes_and_is_measured(tmp_path: Path) -> None:
    backends = load_backends(("names{sep=;}", "onnx"))
    write_all(backends[:1], family("llama"), tmp_path)
    assert ";" in (tmp_path / "names" / "names.txt").read_text(encoding="utf-8")
    assert backends[0].size_in(tmp_path / backends[0].place) == (tmp_path / "names" / "names.txt").stat().st_size
    assert list(file_quantities(family("llama"), backends)) == ["onnx"]
    assert not backends[0].expresses(family("llama"))
    with pytest.raises(UsageError, match="what the backend names writes is not run here"):
        Names.open(tmp_path)


@pytest.mark.usefixtures("third_parties")
def test_a_class_that_only_looks_like_a_backend_is_told_what_to_subclass(tmp_path: Path) -> None:
    for find in (load_backend, backend_class):
        with pytest.raises(RegistryError, match=r"duck.* is Duck, .* subclass of graphprune\.budget\.backend\.Backend"):
            find("duck")
    assert opener_of(tmp_path) is None, "it keeps nobody from running a model"


def test_nothing_to_open_is_said_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(GraphpruneError, match=f"no ONNX model in {tmp_path}: expected .*model.onnx; export one"):
        open_model(tmp_path)


def test_a_folder_is_opened_by_who_wrote_it(tmp_path: Path) -> None:
    write_all(load_backends(("onnx",)), family("llama"), tmp_path)
    for folder in (tmp_path, tmp_path / "onnx"):
        opener = opener_of(folder)
        assert opener is not None
        assert opener.name == "onnx"
    assert open_model(tmp_path, "cpu").provider == "CPUExecutionProvider"
    assert opener_of(tmp_path / "none") is None


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
