"""The benchmark for a GPU: every part runs at the size of seconds on the CPU, and what is around the parts holds."""

import functools
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks" / "gpu"
PARTS = ("checks", "throughput", "held", "accel", "smollm2", "onnx-cuda", "compile-1b", "sparse")


@functools.cache
def module(name: str) -> ModuleType:
    """A module of the benchmark, which is a folder of scripts and no package."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "run"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_until(condition: Any, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.05)
    return bool(condition())


KEYS = {
    "checks": {"what", "outcome", "seconds"},
    "throughput": {"shape", "way", "batch", "tokens_per_second", "tflops", "share_of_peak", "peak_gib"},
    "held": {"shape", "way", "batch", "tokens_per_second", "tflops", "share_of_peak", "peak_gib"},
    "accel": {"share", "method", "tokens", "epochs", "lr", "bits_per_byte", "parameters"},
    "smollm2": {"share", "state_of_model", "perplexity", "bits_per_byte", "parameters"},
    "onnx-cuda": {"model", "what", "provider", "difference", "prefill", "decode"},
    "compile-1b": {"method", "phase", "seconds", "host_gib", "gpu_gib"},
    "sparse": {"what", "tokens", "dense", "packed", "gain", "difference"},
}


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_every_part_runs_at_the_size_of_seconds(part: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(part, "--tiny", "--out", str(out), "--work", str(tmp_path / "work"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{part}  ok" in done.stdout
    *found, end = rows(out / f"{part}.jsonl")
    assert (end["state"], end["estimate"]) == ("ok", module("parts").PARTS[part].seconds)
    assert found
    assert not [row for row in found if "error" in row]
    assert any(KEYS[part] <= row.keys() for row in found)
    assert all({"card", "date", "torch", "transformers", "tiny"} <= row.keys() for row in found)
    assert "not yet run" in run("--table", str(out)).stdout  # figures of a tiny run are none


def test_the_list_says_what_each_part_proves_and_takes() -> None:
    said = run("--list").stdout
    for name, part in module("parts").PARTS.items():
        assert f"{name}: {part.proves}" in said
        assert f"about {part.seconds} s on an H100" in said
        assert part.program.is_file()
        assert part.seconds <= module("parts").LIMIT
    assert tuple(module("parts").PARTS) == PARTS


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = run("checks", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "need a GPU" in line
    assert "--tiny" in line
    assert not (tmp_path / "out").exists()


def test_a_wrong_part_names_those_there_are() -> None:
    done = run("chekcs", "--out", "x")
    assert done.returncode == 2
    assert all(part in done.stderr for part in PARTS)


HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("began", flush=True)
open(sys.argv[1], "w").write('{"part": "checks", "what": "first"}\\n')
open(sys.argv[2], "w").write(str(child.pid))
time.sleep(600)
"""


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_part_that_hangs_is_ended_with_all_that_it_started_and_its_rows_stay(tmp_path: Path) -> None:
    written, child, log = tmp_path / "rows", tmp_path / "child", tmp_path / "log"
    command = [sys.executable, "-c", HANGS, str(written), str(child)]
    state, seconds = module("runner").run_limited(command, log, 3.0, os.environ)
    assert state == "out of time"
    assert 3 <= seconds < 60
    assert rows(written) == [{"part": "checks", "what": "first"}]
    assert log.read_text() == "began\n"
    assert wait_until(lambda: not is_running(int(child.read_text())))


@pytest.mark.parametrize(("code", "state"), [("pass", "ok"), ("raise SystemExit(3)", "failed")])
def test_the_state_is_how_the_process_ended(code: str, state: str, tmp_path: Path) -> None:
    found, _ = module("runner").run_limited([sys.executable, "-c", code], tmp_path / "log", 60, os.environ)
    assert found == state


def cut(tmp_path: Path, content: bytes, name: str = "model.bin") -> Path:
    """A file in pieces of 100 bytes; returns the manifest."""
    (tmp_path / name).write_bytes(content)
    module("pieces").split(tmp_path / name, 100, tmp_path / "pieces")
    return tmp_path / "pieces" / f"{name}.pieces.json"


@pytest.mark.parametrize("content", [bytes(range(256)), b"the same again " * 100], ids=["dense", "repetitive"])
def test_what_is_cut_is_joined(content: bytes, tmp_path: Path) -> None:
    manifest = cut(tmp_path, content)
    pieces = sorted(manifest.parent.glob("model.bin.[0-9]*"))
    assert [path.stat().st_size for path in pieces[:-1]] == [100] * (len(pieces) - 1)
    assert sum(path.stat().st_size for path in pieces) <= len(content)
    joined = module("pieces").join(manifest, tmp_path / "joined")
    assert joined.read_bytes() == content
    pieces[0].unlink()
    assert module("pieces").join(manifest, tmp_path / "joined") == joined  # it is there already
    assert not list((tmp_path / "joined").glob(".*"))


def test_a_wheel_is_a_wheel_when_it_is_joined(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "onnxruntime_gpu-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("onnxruntime/__init__.py", "x = 1\n" * 500)
    module("pieces").split(path, 100, tmp_path / "pieces")
    joined = module("pieces").join(tmp_path / "pieces" / f"{path.name}.pieces.json", tmp_path / "joined")
    assert joined.stat().st_size < path.stat().st_size
    site = module("prepare").unpack_wheels([joined], tmp_path / "work")
    assert (site / "onnxruntime" / "__init__.py").read_text() == "x = 1\n" * 500


def test_a_damaged_or_missing_piece_is_named(tmp_path: Path) -> None:
    manifest, pieces = cut(tmp_path, bytes(range(256))), module("pieces")
    piece = manifest.parent / "model.bin.01"
    good = piece.read_bytes()
    piece.write_bytes(b"x" + good[1:])
    with pytest.raises(pieces.PiecesError, match=r"model\.bin\.01 is damaged.*bring it again"):
        pieces.join(manifest, tmp_path / "joined")
    piece.unlink()
    with pytest.raises(pieces.PiecesError, match=r"model\.bin lacks model\.bin\.01"):
        pieces.join(manifest, tmp_path / "joined")
    assert pieces.join_all(manifest.parent, tmp_path / "joined") == ["not joined: model.bin lacks model.bin.01"]
    assert not (tmp_path / "joined" / "model.bin").exists()
    piece.write_bytes(good)
    assert pieces.join_all(manifest.parent, tmp_path / "joined") == ["model.bin: joined"]


@pytest.mark.parametrize(("text", "size"), [("60MiB", 60 << 20), ("1.5GB", 1_500_000_000), ("100", 100)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert module("pieces").parse_size(text) == size


def test_the_package_is_found_without_an_installation(tmp_path: Path) -> None:
    """What an installation would say of it is written from the project's file."""
    prepare = module("prepare")
    environment = prepare.make_environment(tmp_path / "work", None, True)
    code = "from importlib.metadata import distribution as d; p = d('graphprune'); print(p._path, len(p.entry_points))"
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert said.startswith(str(tmp_path / "work" / "info"))
    assert prepare.probe(environment).card is None


def test_wheels_of_another_python_are_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x-1-cp39-cp39-manylinux2014_x86_64.whl").touch()
    environment = module("prepare").make_environment(tmp_path / "work", tmp_path, True)
    assert "site-" not in environment["PYTHONPATH"]
    assert "for another Python" in capsys.readouterr().out


def test_tables_have_a_line_a_row_and_say_where_nothing_was_run(tmp_path: Path) -> None:
    tables, part = module("tables"), module("parts").PARTS["throughput"]
    assert "| not yet run |" in tables.table(part, [])
    row = {"part": "throughput", "shape": "1.2B", "way": "recover, eager", "tokens_per_second": 38123.4}
    row |= {"share_of_peak": 0.412, "card": "NVIDIA H100", "date": "2026-11-28", "torch": "2.11.0", "tiny": False}
    failed = {"part": "throughput", "shape": "1.2B", "way": "recover, compiled", "error": "no|memory"}
    (tmp_path / "throughput.jsonl").write_text(f'{json.dumps(row)}\n{json.dumps(failed)}\n{{"cut sho')
    text = tables.table(part, tables.read_results([tmp_path])["throughput"])
    assert "| 1.2B | recover, eager |  | 38,123 |  | 41.2% |" in text
    assert "| NVIDIA H100 | 2026-11-28 | 2.11.0 |" in text
    assert "no/memory" in text


def test_the_page_is_rewritten_between_its_markers(tmp_path: Path) -> None:
    page, results = tmp_path / "gpu.md", tmp_path / "results"
    page.write_text((FOLDER.parent.parent / "docs" / "gpu.md").read_text())
    results.mkdir()
    row = {"part": "checks", "what": "test_scores[obs]", "outcome": "passed", "seconds": 1.5, "tiny": False}
    (results / "checks.jsonl").write_text(json.dumps(row) + "\n")
    assert module("runner").main(["--table", str(results), "--page", str(page)]) == 0
    text = page.read_text()
    assert "| test_scores[obs] | passed | 1.5 |" in text
    assert text.count("| not yet run |") == len(PARTS) - 1
    for wrong, message in (
        ("nothing", "lacks the markers of any part"),
        ("<!-- accel -->\n", "lacks <!-- end of accel"),
    ):
        page.write_text(wrong)
        with pytest.raises(ValueError, match=message):
            module("tables").write_page(page, {})


def test_a_page_may_have_one_table(tmp_path: Path) -> None:
    page = tmp_path / "adapt-accel.md"
    page.write_text((FOLDER.parent.parent / "docs" / "methods" / "adapt-accel.md").read_text())
    row = {"part": "accel", "share": 0.6, "method": "once", "tokens": 2_000_000, "bits_per_byte": 0.7}
    module("tables").write_page(page, {"accel": [row]})
    assert "| once | 2,000,000 |" in page.read_text()
