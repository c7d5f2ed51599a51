"""Streams: closed, full, broken, and of no character but ASCII; and files that take on the user's umask."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphprune.artefacts.export import follow_umask
from graphprune.cli.console.terminal import BROKEN, is_stdout
from graphprune.cli.main import is_short_of_memory, report_file

SHELL = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONWARNINGS": "ignore"}


def shell(command: str) -> subprocess.CompletedProcess[bytes]:
    """A command line with `graphprune` in it, as a shell runs it."""
    start = f"{sys.executable} -c 'from graphprune.cli.main import main; main()'"
    return subprocess.run(
        ["bash", "-c", command.replace("graphprune", start)], capture_output=True, env=SHELL, check=False
    )


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("graphprune list methods > /dev/full", 1, b"error: cannot write to stdout: No space left on device"),
        ("graphprune list methods >&-", 0, b""),
        ("graphprune list methods 2>&- >&-", 0, b""),
        ("set -o pipefail; graphprune --help | head -0", None, b""),
        ("graphprune --help", 0, b""),
        ("graphprune inspect $'nowhere-\\xff-\\u00e9'", 1, b"error: no model folder at nowhere-"),
        ("graphprune generate nowhere $'\\xff'", 2, b"error: no folder at nowhere"),
    ],
)
def test_every_stdout_is_met_in_one_line_or_none(command: str, code: int | None, said: bytes) -> None:
    done = shell(command)
    assert said in done.stderr
    assert b"Traceback" not in done.stderr + done.stdout
    assert b"internal error" not in done.stderr
    assert len(done.stderr.splitlines()) == bool(said)
    assert code is None or done.returncode == code


def test_a_file_that_cannot_be_used_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/somewhere/model.onnx")
    assert not is_stdout(full)
    assert report_file(full) == 1
    assert capsys.readouterr().err == "error: cannot use /somewhere/model.onnx: No space left on device\n"


def test_a_pipe_that_nobody_reads_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("graphprune.cli.main.abandon_stdout", lambda: None)
    assert report_file(BrokenPipeError(errno.EPIPE, "Broken pipe")) == BROKEN
    assert capsys.readouterr().err == ""


def test_want_of_memory_is_no_internal_error() -> None:
    assert is_short_of_memory(MemoryError())
    assert is_short_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_short_of_memory(RuntimeError("shapes"))


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_files_have_the_mode_that_the_umask_says(tmp_path: Path, mask: int) -> None:
    (tmp_path / "inner").mkdir()
    for path in (tmp_path / "a", tmp_path / "inner" / "b"):
        path.touch(0o600)
    old = os.umask(mask)
    try:
        follow_umask(tmp_path)
    finally:
        os.umask(old)
    assert (tmp_path / "inner" / "b").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "inner").stat().st_mode & 0o777 == 0o777 & ~mask
