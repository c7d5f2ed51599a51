"""The stand-in for a GPU refuses what a GPU refuses, and what is tested on a GPU runs on it.

In processes of their own, since torch can not forget a kind of device.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REFUSES = """
import torch
from tests.support.stand_in import present

def refused(work):
    try:
        work()
    except (RuntimeError, TypeError) as error:
        return type(error).__name__
    return "done"

with present() as device:
    there, here = torch.ones(3, device=device), torch.ones(3)
    there[1] = 5
    there += 1
    print(there.cpu().tolist(), there.device, (there + torch.tensor(2.0)).sum().item())
    print(refused(lambda: there + here), refused(lambda: torch.cat([there, here])), refused(lambda: there.numpy()))
    print(here[torch.tensor([0, 2])].to(device).device, there[torch.tensor([0, 2])].cpu().tolist())
    weight = torch.nn.Parameter(torch.ones(2, 3, device=device))
    (weight @ there).sum().backward()
    print(weight.grad.device, weight.grad.cpu().tolist())
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_it_computes_and_refuses_as_a_gpu_does() -> None:
    done = python("-W", "ignore", "-c", REFUSES)
    assert done.stdout.splitlines() == [
        "[2.0, 6.0, 2.0] standin:0 16.0",
        "RuntimeError RuntimeError RuntimeError",
        "standin:0 [2.0, 2.0]",
        "standin:0 [[2.0, 6.0, 2.0], [2.0, 6.0, 2.0]]",
    ], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("which", ["scores or pruning", "not (scores or pruning)"])
def test_what_is_tested_on_a_gpu_runs_on_it(which: str) -> None:
    done = python("-m", "pytest", "-q", "-n", "0", "-m", "gpu", "--stand-in", "-k", which, "tests/test_gpu.py")
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 12


@pytest.mark.slow
def test_weights_that_stay_in_their_file_run_on_it() -> None:
    done = python("-m", "pytest", "-q", "-n", "0", "-m", "gpu", "--stand-in", "tests/compiler/test_memory_of_gpu.py")
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.findall(r"(\d+) passed", done.stdout) == ["3"]
