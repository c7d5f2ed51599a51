"""Threads that wait sleep unless the user says otherwise, and small models use few."""

import os
import subprocess
import sys

import pytest
import torch

from graphprune.threads import processors, thread_count, threads_for, wait_asleep


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "x")  # restored at the end, whatever is written in between
        monkeypatch.delenv(name)
    return monkeypatch


def test_threads_sleep_while_they_wait(unset: pytest.MonkeyPatch) -> None:
    wait_asleep()
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    assert [os.environ[name] for name in names] == ["PASSIVE", "0", "0"]


def test_how_the_user_wants_them_to_wait_stays(unset: pytest.MonkeyPatch) -> None:
    unset.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_asleep()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert not {"GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys()


def test_the_command_says_so_before_torch_is_imported(unset: pytest.MonkeyPatch) -> None:
    code = """
import os, sys
from graphprune.cli import main
main.end, sys.argv = print, ["graphprune", "--version"]
main.main()
assert "torch" not in sys.modules
print(os.environ["OMP_WAIT_POLICY"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "PASSIVE"


def test_small_models_use_few(unset: pytest.MonkeyPatch) -> None:
    assert thread_count(1_000_000) == 1
    assert thread_count(50_000_000) == min(4, processors())
    assert thread_count(1_000_000_000) is None
    unset.setenv("OMP_NUM_THREADS", "7,2")
    assert thread_count(1_000_000) == thread_count(1_000_000_000) == 7


def test_torch_has_its_threads_again_afterwards(unset: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    with threads_for(1_000):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
