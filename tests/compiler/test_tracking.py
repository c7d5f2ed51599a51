"""Tracking: every step of a training reaches the tracker once, in one run, and a tracker that fails stops nothing."""

from pathlib import Path
from typing import Any, ClassVar

import accelerate.tracking
import pytest

from graphprune.cli.main import run
from graphprune.compiler import tracking
from graphprune.compiler.tracking import Run, check_tracker, numbers, tracked
from graphprune.errors import UsageError
from graphprune.pipeline.options import CompileOptions
from graphprune.progress import no_progress
from graphprune.training.metrics import no_track
from tests.support.tiny_source import write_source

pytestmark = pytest.mark.xdist_group("compile")


class Kept:
    """A tracker as accelerate has them, which keeps what it is told."""

    requires_logging_directory = False
    told: ClassVar[list[Any]] = []
    fails: ClassVar[str] = ""

    def __init__(self, project: str, **options: Any) -> None:
        self.note("made", project, options)

    def note(self, name: str, *told: Any) -> None:
        self.told.append((name, *told))
        if name == self.fails:
            raise RuntimeError("the server is away\nand more")

    def start(self) -> None:
        self.note("start")

    def store_init_configuration(self, values: Any) -> None:
        self.note("asked", values)

    def log(self, values: Any, step: int) -> None:
        self.note("log", step, values)

    def finish(self) -> None:
        self.note("finish")


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> type[Kept]:
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "wandb", Kept)
    monkeypatch.setattr(tracking, "is_installed", lambda name: True)
    monkeypatch.setattr(Kept, "told", [])
    return Kept


def line(source: Path, out: Path) -> list[str]:
    steps = [f"recover.{each}" for each in ("tokens=128", "rows=2", "length=16", "eval_every=2")]
    sets = [word for each in (*steps, "stages=2") for word in ("--set", each)]
    plain = ["compile", str(source), "-o", str(out), "--target-params", "80%", "--method", "adapt-accel"]
    return [
        *plain,
        *sets,
        "--data",
        str(source / "text.txt"),
        "--samples",
        "4",
        "--length",
        "16",
        "--backends",
        "huggingface",
    ]


def test_every_step_of_every_stage_goes_into_one_run(kept: type[Kept], tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    assert run([*line(source, tmp_path / "small"), "--tracker", "wandb"]) == 0
    told = kept.told
    assert told[0] == ("made", "graphprune", {"name": "small"})
    assert told[1] == ("start",)
    assert told[2][1]["target"] == "--target-params 80%"
    assert told[-1] == ("finish",)
    logged = [each for each in told if each[0] == "log"]
    assert len(told) == len(logged) + 4
    steps = [each[1] for each in logged]
    assert steps == sorted(set(steps))
    lines = (tmp_path / "small" / "graphprune" / "metrics.jsonl").read_text().splitlines()
    assert len(steps) == len(lines)
    assert {each[2]["stage"] for each in logged} == {1.0, 2.0}
    assert {"loss", "ce", "lr", "tokens"} <= logged[0][2].keys()


@pytest.mark.parametrize("where", ["made", "start", "log", "finish"])
def test_one_that_fails_is_left_and_said(kept: type[Kept], where: str, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(kept, "fails", where)
    said: list[str] = []
    options = CompileOptions("demo", "60%", tmp_path / "out", tracker="wandb")
    with tracked(options, lambda stage, *_: said.append(stage)) as track:
        for step in (1, 2):
            track([{"step": step, "loss": 1.0}])  # type: ignore[typeddict-item]
    assert said == ["the tracker wandb failed (the server is away); the work goes on"]
    assert sum(each[0] == where for each in kept.told) == 1


def test_tensorboard_gets_a_folder_beside_out(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    source = write_source(tmp_path / "source")
    assert run([*line(source, tmp_path / "small"), "--tracker", "tensorboard"]) == 0
    assert list((tmp_path / "runs" / "small").glob("events.out.tfevents*"))
    assert "tracker" not in (tmp_path / "small" / "run.yaml").read_text()


def test_without_a_tracker_or_lines_nothing_begins(tmp_path: Path) -> None:
    with tracked(CompileOptions("demo", "60%", tmp_path / "out"), no_progress) as track:
        assert track is no_track
    idle = Run(CompileOptions("demo", "60%", tmp_path / "out", tracker="wandb"), no_progress)
    idle([])
    idle.finish()
    assert idle.tracker is None


def test_a_package_that_is_not_there_is_told_before_any_work() -> None:
    check_tracker(None)
    with pytest.raises(UsageError, match="--tracker nowhere: its package is not installed; pip install nowhere"):
        check_tracker("nowhere")


def test_numbers_are_finite_and_named_by_their_places() -> None:
    told = {
        "step": 3,
        "loss": 1.5,
        "kd": None,
        "grad_norm": float("nan"),
        "terms": {"a": 2, "b": "x"},
        "weights": [1.0],
    }
    assert numbers(told) == {"loss": 1.5, "terms/a": 2.0}
