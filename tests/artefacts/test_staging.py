"""OUT appears complete or not at all, whatever ends the run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graphprune.artefacts import staging as module
from graphprune.artefacts.locks import hold
from graphprune.artefacts.outputs import REPORT, check_output, write_record
from graphprune.artefacts.staging import folder_size, place_beside, staging
from graphprune.errors import ExportError, UsageError


def fill(folder: Path, text: str = "new") -> None:
    (folder / "model").write_text(text)
    write_record(folder, [{"path": "model"}])


def written(out: Path, text: str = "old") -> Path:
    with staging(out, overwrite=False) as folder:
        fill(folder, text)
    return out


def test_out_is_absent_until_the_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staging(out, overwrite=False) as folder:
        assert folder.parent == place_beside(out) == out.with_name(".graphprune-out")
        assert not out.exists()
        fill(folder)
        assert not out.exists()
    assert (out / "model").read_text() == "new"
    assert list(out.parent.iterdir()) == [out]
    assert out.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def block() -> None:
        with staging(tmp_path / "out", overwrite=False) as folder:
            fill(folder)
            raise error(28, "No space left on device") if error is OSError else error("no")

    with pytest.raises(ExportError if error is OSError else error):
        block()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_out_is_not_touched(tmp_path: Path) -> None:
    out = written(tmp_path / "out")
    with pytest.raises(UsageError, match="exists; pass --overwrite"), staging(out, overwrite=False):
        pytest.fail("the block must not run")
    assert (out / "model").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_overwrite_replaces_at_the_end(tmp_path: Path) -> None:
    out = written(tmp_path / "out")
    with staging(out, overwrite=True) as folder:
        fill(folder)
        assert (out / "model").read_text() == "old"
    assert (out / "model").read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


def test_overwrite_keeps_the_old_one_on_failure(tmp_path: Path) -> None:
    out = written(tmp_path / "out")

    def block() -> None:
        with staging(out, overwrite=True) as folder:
            fill(folder)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        block()
    assert (out / "model").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "exchange", lambda one, other: False)


def test_where_folders_cannot_change_places_the_old_one_is_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_exchange(monkeypatch)
    test_overwrite_replaces_at_the_end(tmp_path)


def test_a_failing_rename_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, rename = written(tmp_path / "out"), Path.rename
    without_exchange(monkeypatch)

    def failing(self: Path, target: Path) -> Path:
        if target == out and self.name != "old":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ExportError, match="No space left"), staging(out, overwrite=True) as folder:
        fill(folder)
    assert (out / "model").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_foreign_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="was not written by graphprune"), staging(tmp_path / "out", overwrite=True):
        pytest.fail("the block must not run")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"


def test_a_folder_filled_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def block() -> None:
        with staging(out, overwrite=False) as folder:
            fill(folder)
            out.mkdir()
            fill(out, "old")

    with pytest.raises(UsageError, match="exists"):
        block()
    assert (out / "model").read_text() == "old"


def killed_inside(out: Path, overwrite: bool = False) -> None:
    """Run a process that is killed while it is writing."""
    program = f"""
import sys
from pathlib import Path
from graphprune.artefacts.staging import staging
with staging(Path({str(out)!r}), {overwrite}) as folder:
    (folder / "half").write_text("half")
    print("inside", flush=True)
    sys.stdin.read()
"""
    command, pipe = [sys.executable, "-c", program], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == "inside\n"
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_killed_run_leaves_no_out_and_the_next_clears_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed_inside(out)
    assert (place_beside(out) / "new" / "half").exists()
    assert not out.exists()
    written(out)
    assert list(tmp_path.iterdir()) == [out]
    assert not (out / "half").exists()


def test_a_killed_run_keeps_the_old_out(tmp_path: Path) -> None:
    out = written(tmp_path / "out")
    killed_inside(out, overwrite=True)
    assert (out / "model").read_text() == "old"


def test_killed_between_two_renames_the_old_out_returns(tmp_path: Path) -> None:
    """The old folder was moved aside and the new one not yet in place: the next run puts the old one back."""
    out = written(tmp_path / "out")
    place = place_beside(out)
    (place / "new").mkdir(parents=True)
    (place / "lock").touch()
    out.rename(place / "old")
    with staging(out, overwrite=True) as folder:
        assert (out / "model").read_text() == "old"
        fill(folder, "old")
    assert (out / "model").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", ["small-1234", "small.new", "small.lock", "small-old", ".small", "smal", "small "])
def test_a_run_for_another_name_is_left_alone(tmp_path: Path, name: str) -> None:
    with staging(tmp_path / name, overwrite=False) as other:
        fill(other, "other")
        written(tmp_path / "small")
        assert (other / "model").read_text() == "other"
    assert (tmp_path / name / "model").read_text() == "other"
    assert (tmp_path / "small" / "model").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_live_run_for_the_same_out_is_left_alone(tmp_path: Path) -> None:
    """By its lock and by nothing of this machine: the other run may be on another one that shares the disk."""
    out = tmp_path / "out"
    with staging(out, overwrite=False) as folder:
        fill(folder)
        with pytest.raises(UsageError, match="another run is writing"), staging(out, overwrite=True):
            pytest.fail("the block must not run")
        assert (folder / "model").exists()
    assert (out / "model").read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


def test_one_place_however_the_out_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    same = {place_beside(Path(name)) for name in ("out", "./out", "x/../out", str(tmp_path / "out"))}
    assert same == {tmp_path / ".graphprune-out"}
    long = [place_beside(tmp_path / ("n" * 240 + end)) for end in "ab"]
    assert long[0] != long[1]
    assert all(len(path.name) < 200 for path in long)


def test_a_long_name_is_written(tmp_path: Path) -> None:
    written(tmp_path / ("n" * 250))
    with pytest.raises(UsageError, match=r"cannot write .* too long"):
        check_output(tmp_path / ("n" * 300), overwrite=False)


def test_a_lock_is_free_after_its_holder_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "place" / "lock"
    with hold(path) as first:
        assert first
        with hold(path) as second:
            assert not second
        assert path.exists()
    assert list(tmp_path.iterdir()) == []
    with hold(path) as again:
        assert again


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, answers = tmp_path / "place" / "lock", iter([False, True])
    monkeypatch.setattr("graphprune.artefacts.locks.is_same", lambda *_: next(answers))
    with hold(path) as taken:
        assert taken


FOREIGN = {
    "a checkout of this project": {"graphprune/__init__.py": "", "README.md": ""},
    "an empty folder of our name": {"graphprune/.keep": ""},
    "another report": {"graphprune/report.json": '{"files": []}'},
    "a list": {"graphprune/report.json": "[]"},
    "damaged": {"graphprune/report.json": '{"schema_version": 1, "files"'},
    "deep": {"graphprune/report.json": "[" * 100_000},
    "our reference alone": {"graphprune/reference.safetensors": ""},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_no_run_wrote_is_not_overwritten(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    for file, text in FOREIGN[name].items():
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / file).write_text(text)
    with pytest.raises(UsageError, match="was not written by graphprune"):
        check_output(out, overwrite=True)


@pytest.mark.parametrize("name", ["thesis.txt", "notes/a.md", ".git/HEAD", "graphprune/own.py"])
def test_what_was_put_beside_the_result_is_not_lost(tmp_path: Path, name: str) -> None:
    out = written(tmp_path / "out")
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("precious")
    with pytest.raises(UsageError, match=f"also holds {name}, which graphprune did not write"):
        check_output(out, overwrite=True)


def test_a_report_says_what_was_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "graphprune").mkdir(parents=True)
    (out / "model").write_text("old")
    report = {"schema_version": 1, "source": {}, "target": {}, "parity": [], "files": [{"path": "model"}]}
    (out / REPORT).write_text(json.dumps(report))
    check_output(out, overwrite=True)
    (out / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="also holds link"):
        check_output(out, overwrite=True)


def test_neither_the_model_nor_what_holds_it_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where an earlier run wrote it, or where it is called by a link; nor home, nor the folder one is in."""
    out = written(tmp_path / "out")
    (tmp_path / "link").symlink_to(out)
    (tmp_path / "empty").mkdir()
    for model in (out, tmp_path / "link", out / "onnx"):
        with pytest.raises(UsageError, match="is or holds the model"):
            check_output(out, overwrite=True, model=str(model))
    check_output(out, overwrite=True, model="acme/model")
    check_output(out, overwrite=True, model=str(tmp_path))
    monkeypatch.setenv("HOME", str(out / "home"))
    with pytest.raises(UsageError, match="is or holds your home"):
        check_output(out, overwrite=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "empty")
    for place in (Path(), Path(".."), Path("/")):
        with pytest.raises(UsageError, match="is or holds"):
            check_output(place, overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_parent_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ExportError, match="cannot write beside"), staging(tmp_path / "out", overwrite=False):
            pytest.fail("the block must not run")
    finally:
        tmp_path.chmod(0o700)


def test_a_parent_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write beside"), staging(tmp_path / "file" / "out", overwrite=False):
        pytest.fail("the block must not run")


def test_bytes_of_matching_files(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"123")
    (tmp_path / "b.bin").write_bytes(b"4")
    (tmp_path / "c.txt").write_bytes(b"5")
    assert folder_size(tmp_path, "*.bin") == 4
