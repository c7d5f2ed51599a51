"""The process that times one model: an answer for each line it is asked, and its own peak of memory."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graphprune.backends.onnx.backend import Onnx
from graphprune.evaluation.bench_worker import main
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timed")
    Onnx().export(tiny_graph(), path)
    return path / "onnx"


def work(folder: Path, **changes: Any) -> dict[str, Any]:
    plain = {"engine": "onnxruntime", "backend": "onnx", "folder": str(folder), "provider": "cpu", "threads": 1}
    return {**plain, "context": 8, "tokens": 4, **changes}


def ask(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_it_is_ready_once_and_then_answers_each_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(monkeypatch, json.dumps(work(folder)), "run", "run", "run")
    assert main() == 0
    ready, *runs = map(json.loads, capsys.readouterr().out.splitlines())
    assert ready == {"ready": True}
    assert len(runs) == 3
    for run in runs:
        assert run.keys() == {"prefill", "decode", "peak"}
        assert 0 < run["prefill"] < 60
        assert 0 < run["decode"] < 60
        assert run["peak"] > 20e6


LOADED = """
import sys
from graphprune.evaluation.bench_worker import main
main()
print(sorted({"torch", "transformers"} & sys.modules.keys()))
"""


def test_neither_torch_nor_transformers_is_loaded(folder: Path) -> None:
    """They would be in the peak of memory, and are not where the model will run."""
    pipe = subprocess.PIPE
    command, asked = [sys.executable, "-c", LOADED], f"{json.dumps(work(folder))}\nrun\n"
    done = subprocess.run(command, input=asked, stdout=pipe, text=True, check=True)
    *answers, loaded = done.stdout.splitlines()
    assert (len(answers), loaded) == (2, "[]")


def test_what_cannot_be_opened_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    ask(monkeypatch, json.dumps(work(tmp_path)), "run")
    assert main() == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "cannot open" in json.loads(line)["error"]


PEAK = """
from graphprune.evaluation.bench_worker import peak_memory
before = peak_memory()
block = b"1" * (64 << 20)
with_it = peak_memory()
del block
print(before, with_it, peak_memory())
"""


def test_the_peak_stays_when_the_memory_is_given_back() -> None:
    told = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    before, with_it, after = map(int, told.stdout.split())
    assert 5e6 < before < 500e6
    assert 60 << 20 < with_it - before < 72 << 20
    assert abs(after - with_it) < 1 << 20, "the kernel counts in batches of pages"
