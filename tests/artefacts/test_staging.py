"""OUT appears complete or not at all, whatever ends the run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graphprune.artefacts.staging import clear_leftovers, folder_size, staging
from graphprune.errors import ExportError, UsageError


def fill(folder: Path, text: str = "new") -> None:
    (folder / "graphprune").mkdir()
    (folder / "model").write_text(text)


def written(out: Path, text: str = "old") -> Path:
    with staging(out, overwrite=False) as folder:
        fill(folder, text)
    return out


def test_out_is_absent_until_the_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staging(out, overwrite=False) as folder:
        assert folder.parent == out.parent
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


def test_a_failing_rename_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, rename = written(tmp_path / "out"), Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == out and not self.name.endswith("-old"):
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
            written(out)

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
    (leftover,) = tmp_path.iterdir()
    assert (leftover / "half").exists()
    assert not out.exists()
    written(out)
    assert list(tmp_path.iterdir()) == [out]
    assert not (out / "half").exists()


def test_a_killed_run_keeps_the_old_out(tmp_path: Path) -> None:
    out = written(tmp_path / "out")
    killed_inside(out, overwrite=True)
    assert (out / "model").read_text() == "old"


def dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_killed_between_the_two_renames_the_old_out_returns(tmp_path: Path) -> None:
    """The old folder was moved aside and the new one not yet in place: the next run puts the old one back."""
    out, process = written(tmp_path / "out"), dead_process()
    out.rename(tmp_path / f".graphprune-out-{process}-abc-old")
    (tmp_path / f".graphprune-out-{process}-abc").mkdir()
    clear_leftovers(out)
    assert (out / "model").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_folders_of_running_processes_stay_as_they_are_and_those_of_dead_ones_go(tmp_path: Path) -> None:
    running, dead = (tmp_path / f".graphprune-out-{process}-abc" for process in (os.getpid(), dead_process()))
    aside, other = (
        tmp_path / f".graphprune-out-{os.getpid()}-abc-old",
        tmp_path / f".graphprune-outer-{dead_process()}-abc",
    )
    foreign = tmp_path / ".graphprune-out-notes"
    for folder in (running, dead, aside, other, foreign):
        folder.mkdir()
        (folder / "half").write_text(folder.name)
    written(tmp_path / "out")
    left = {path.name: (path / "half").read_text() for path in tmp_path.iterdir() if path.name != "out"}
    assert left == {folder.name: folder.name for folder in (running, aside, other, foreign)}
    assert (tmp_path / "out" / "model").read_text() == "old"


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
