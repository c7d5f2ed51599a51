"""A disk without room is told with the bytes that are needed, before the work and before anything is written."""

from collections import namedtuple
from pathlib import Path

import pytest

from graphprune.artefacts.export import load_backends
from graphprune.budget.targets import resolve_target
from graphprune.compiler import compile as compiling
from graphprune.compiler import disk
from graphprune.compiler.compile import compile_model
from graphprune.compiler.disk import bytes_to_write
from graphprune.errors import ExportError
from graphprune.frontend.source import capture
from graphprune.pipeline.options import CompileOptions
from tests.support.tiny_source import write_source

pytestmark = pytest.mark.xdist_group("disk")
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


def options(source: Path, out: Path) -> CompileOptions:
    return CompileOptions(
        str(source), "75%", out, data=str(source / "text.txt"), samples=4, length=16, importance="magnitude"
    )


def test_what_is_needed_is_near_what_is_written(source: Path, tmp_path: Path) -> None:
    result = compile_model(options(source, tmp_path / "out"))
    graph, backends = capture(source), load_backends(("huggingface", "onnx"))
    told = bytes_to_write(graph, backends, resolve_target("--target-params", "75%", graph, {}))
    written = sum(backend.size_in(tmp_path / "out" / backend.place) for backend in backends)
    assert result.checks
    assert 0.7 < told / written < 1.5


@pytest.mark.parametrize("late", [False, True])
def test_a_disk_without_room_is_told(late: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[Path]()

    def usage(folder: Path) -> Usage:
        asked.append(folder)
        return Usage(1, 1, 1 << 40 if late and len(asked) == 1 else 100)

    monkeypatch.setattr(disk.shutil, "disk_usage", usage)
    if not late:
        monkeypatch.setattr(compiling, "run_method", None)  # nothing is done
    with pytest.raises(ExportError, match=r"cannot write .*out: it takes about .*iB and its disk has 100 bytes left"):
        compile_model(options(source, tmp_path / "out"))
    assert not list(tmp_path.iterdir())
