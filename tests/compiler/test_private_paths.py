"""No file of OUT says where the source, its text or OUT lay on the machine that made it."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from graphprune.compiler.compile import apply_plan, compile_model
from graphprune.pipeline.options import ApplyOptions, CompileOptions
from tests.support.tiny_source import write_source

pytestmark = pytest.mark.xdist_group("compile")
NAME = "zanzibar-home"
BACKENDS = ("huggingface{form=generic}", "onnx", "ort", "gguf{precision=f16}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(NAME)


def telling(out: Path, *words: str) -> dict[str, list[str]]:
    """The files that hold one of the words, as text or as bytes of a binary."""
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    found = {str(p.relative_to(out)): [w for w in words if w.encode() in data] for p, data in files.items()}
    return {name: words for name, words in found.items() if words}


def test_no_file_of_a_compilation_or_of_a_replayed_plan_tells_a_path(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(place / "users" / "me"))
    source = place / "users" / "me" / "model"
    source.mkdir(parents=True)
    write_source(source)
    (source / "text.txt").rename(place / "text.txt")
    text = str(place / "text.txt")
    steps = ("recover.tokens=64", "recover.rows=2", "recover.length=16", f"recover.data={text}")
    plain = CompileOptions(str(source), "75%", place / "out", method="adapt-accel", samples=4, length=16)
    compile_model(replace(plain, backends=BACKENDS, settings=steps, data=text))
    words = (NAME, str(Path.home()), tempfile.gettempdir(), ".graphprune-", "graphprune-")
    assert (place / "out" / "gguf").is_dir()
    assert telling(place / "out", *words) == {}
    plan = place / "out" / "graphprune" / "plan.json"
    apply_plan(ApplyOptions(str(source), plan, place / "again", ("huggingface",)))
    assert telling(place / "again", *words) == {}
