"""A run that is killed at random moments loses nothing and leaves nothing half; the benchmark does it more often."""

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "kills.py"


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kills", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kills"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_three_kills_of_runs_that_replace_an_out(kills: ModuleType, tmp_path: Path) -> None:
    subject = kills.Subject(tmp_path / "place", "overwrite", "huggingface")
    *_, counts = kills.try_way(subject, 3, random.Random(0))
    assert counts.kills + counts.through == 3
    assert counts.faults == 0, counts


def test_it_sees_a_half_out_and_what_goes_on(kills: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "graphprune").mkdir()
    assert not kills.is_whole(tmp_path)
    (tmp_path / "graphprune" / "report.json").write_text('{"files": [{"path": "a", "sha256": "0"}]}')
    (tmp_path / "a").write_text("changed")
    assert not kills.is_whole(tmp_path)
    sleeper = "[sys.executable, '-c', 'import time; time.sleep(60)'], stderr=subprocess.DEVNULL"
    child = f"import subprocess, sys; subprocess.Popen({sleeper})"
    _, _, others = kills.run([sys.executable, "-c", child], None, 0)
    assert len(others) == 1


def test_kills_are_shared_out(kills: ModuleType) -> None:
    assert kills.shares(100, ("plain", "training", "overwrite")) == [34, 33, 33]
