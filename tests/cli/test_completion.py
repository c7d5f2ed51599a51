"""`graphprune completion`: the scripts, and what they are told."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graphprune.cli.completion import SHELLS, VALUES, VARIABLE, is_completing, values_of
from graphprune.cli.main import run
from graphprune.pipeline.options import explained_options


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script(shell: str, capsys: Any) -> None:
    assert run(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert VARIABLE in text
    assert "graphprune" in text


def test_another_shell_is_refused(capsys: Any) -> None:
    assert run(["completion", "tcsh"]) == 2
    assert "it takes bash, zsh, fish" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("graphprune comp", {"compile", "compare", "completion"}),
        ("graphprune compile --target-s", {"--target-size", "--target-speed"}),
        ("graphprune compile --method adapt-pruner", {"adapt-pruner", "adapt-pruner-ls"}),
        ("graphprune compile demo --precision b", {"bf16"}),
        ("graphprune list --js", {"--json"}),
    ],
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(typed: str, found: set[str], tmp_path: Path, capsys: Any) -> None:
    """The script is run by bash, as at a press of TAB."""
    assert run(["completion", "bash"]) == 0
    command = tmp_path / "graphprune"
    main = "from graphprune.cli.main import main; main()"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{main}" "$@"\n')
    command.chmod(0o755)
    words = typed.split()
    press = f"""
PATH={tmp_path}:$PATH
{capsys.readouterr().out}
COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}
_graphprune_completion graphprune; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", press], capture_output=True, text=True, check=True, timeout=120)
    assert set(done.stdout.split()) == found, done.stderr


def test_values_are_of_options_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert VALUES.keys() <= explained_options().keys()
    assert all(found() for found in VALUES.values())
    assert values_of("seed") is None
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not is_completing()
