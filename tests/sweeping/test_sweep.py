"""A sweep from a model to its page: what is made once, what a stop loses, what is added, what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune.artefacts.outputs import check_output
from graphprune.cli.main import run
from graphprune.compiler.compile import apply_plan
from graphprune.errors import BudgetError, UsageError
from graphprune.frontend.source import capture
from graphprune.ir.plan import read_plan
from graphprune.pipeline.options import ApplyOptions
from graphprune.rewriting.solved_weights import apply_solved, read_solved
from graphprune.sweeping import points as made_points
from graphprune.sweeping.kept import read_points
from graphprune.sweeping.options import SweepOptions
from graphprune.sweeping.points import make_point
from graphprune.sweeping.schema import Curve
from graphprune.sweeping.sweep import command_line, sweep
from tests.support.tiny_source import WORDS, write_source

Asked = Callable[..., SweepOptions]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_source(tmp_path_factory.mktemp("swept"))
    (folder / "val.txt").write_text((WORDS.upper() + WORDS) * 20)
    return folder


@pytest.fixture
def asked(model: Path, tmp_path: Path) -> Asked:
    def make(**changes: Any) -> SweepOptions:
        plain: dict[str, Any] = {
            "targets": "90%:70%",
            "data": str(model / "text.txt"),
            "held_out": str(model / "val.txt"),
            "samples": 8,
            "length": 16,
            "out": tmp_path / "out",
            "method": "adapt-pruner-ls",
        }
        return SweepOptions(str(model), **{**plain, **changes})

    return make


def test_every_size_is_a_plan_that_gives_the_model_measured(asked: Asked, model: Path, tmp_path: Path) -> None:
    curve, out = sweep(asked(prune=("mlp", "attention"))), tmp_path / "out"
    source = capture(str(model), dtype=torch.float32)
    assert [point.target for point in curve.points] == ["90%", "80%", "70%"]
    for point in curve.points:
        plan = out / "points" / point.target / "plan.json"
        found = apply_solved(source, read_plan(plan), read_solved(plan))
        assert found.parameter_count() == point.parameters
        assert point.parameters <= source.parameter_count() * int(point.target[:-1]) // 100
    assert Curve.model_validate_json((out / "sweep.json").read_text()) == curve
    assert len(list((out / "work").glob("scores-*"))) == 1, "all sizes have the same candidates, so they share scores"
    check_output(out, True)  # all files are on the list


def test_a_size_alone_is_the_same_as_among_others(asked: Asked, tmp_path: Path) -> None:
    among = sweep(asked())
    alone = sweep(asked(targets="70%", out=tmp_path / "alone"))
    assert alone.points[0].quality == among.points[-1].quality
    plans = [(folder / "points" / "70%" / "plan.json").read_text() for folder in (tmp_path / "out", tmp_path / "alone")]
    assert plans[0] == plans[1]


def test_what_is_there_is_not_made_again_and_other_sizes_are_added(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(scene: Any, name: str, target: Any) -> Any:
        made.append(name)
        if name == "70%" and made.count("70%") == 1:
            raise KeyboardInterrupt
        return make_point(scene, name, target)

    monkeypatch.setattr("graphprune.sweeping.sweep.make_point", counted)
    with pytest.raises(KeyboardInterrupt):
        sweep(asked())
    curve = sweep(asked())
    assert made == ["90%", "80%", "70%", "70%"]
    assert [point.target for point in sweep(asked(targets="50%")).points] == ["90%", "80%", "70%", "50%"]
    assert made[4:] == ["50%"]
    (tmp_path / "out" / "points" / "80%" / "point.json").write_text("{")
    assert set(read_points(tmp_path / "out")) == {"90%", "70%", "50%"}
    again = sweep(asked())
    assert [p.quality for p in again.points[:3]] == [p.quality for p in curve.points]
    shutil.rmtree(tmp_path / "out" / "work")
    sweep(asked(targets="60%"))
    assert made[5:] == ["80%", "60%"]


def test_another_sweep_is_refused_and_replaced_when_told_to(asked: Asked, tmp_path: Path) -> None:
    sweep(asked(targets="80%", method="magnitude-sp"))
    with pytest.raises(UsageError, match="another method and another seed"):
        sweep(asked(targets="80%", method="taylor", seed=1))
    found = sweep(asked(targets="70%", method="taylor", restart=True))
    assert [point.target for point in found.points] == ["70%"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("")
    with pytest.raises(UsageError, match="holds no sweep"):
        sweep(asked(out=other))


def test_a_wrong_size_or_method_leaves_nothing(asked: Asked, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"at 1%: .*out of reach"):
        sweep(asked(targets="90%,1%"))
    with pytest.raises(UsageError, match="trains, and sweep only cuts"):
        sweep(asked(method="adapt-accel", settings=("recover.tokens=1000",)))
    with pytest.raises(UsageError, match="use compile"):
        sweep(asked(prune=("vocabulary",), method="taylor"))
    assert not (tmp_path / "out").exists()


def test_searches_share_a_folder(asked: Asked, tmp_path: Path) -> None:
    sweep(asked(targets="80%,79%", method="evolve"))
    libraries = list((tmp_path / "out" / "work" / "library").iterdir())
    assert 1 <= len(libraries) <= 2
    assert (tmp_path / "out" / "work" / "search.jsonl").is_file()


def test_the_command_and_its_json(
    asked: Asked, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["sweep", str(model), "-o", str(tmp_path / "out"), "--targets", "80%", "--method", "magnitude-sp", "--json"]
    texts = ["--data", str(model / "text.txt"), "--held-out", str(model / "val.txt")]
    line = [*line[:-1], *texts, "--length", "16", "--samples", "4", "--json"]
    assert run(line) == 0
    data = json.loads(capsys.readouterr().out)
    assert [each["target"] for each in data["points"]] == ["80%"]
    assert data["command"].startswith("graphprune sweep swept0 -o OUT --targets 80%")
    assert "text.txt" in command_line(asked())
    changes = {"prune": ("mlp",), "round_to": 8, "runtime": "vllm", "settings": ("prune.floor=0.2",)}
    assert "--prune mlp --round-to 8 --for vllm --set prune.floor=0.2" in command_line(asked(**changes))
    assert str(model) not in data["command"]
    assert run(line[:-1]) == 0
    shown = capsys.readouterr().out
    assert "sweep.html" in shown
    assert run(["apply", str(tmp_path / "out/points/80%/plan.json"), str(model), "-o", str(tmp_path / "small")]) == 0
    assert made_points.POINTS.name == "points"


def test_sizes_for_a_runtime_are_what_it_holds(asked: Asked, model: Path, tmp_path: Path) -> None:
    sweep(asked(targets="70%", runtime="vllm"))
    plan = tmp_path / "out" / "points" / "70%" / "plan.json"
    apply_plan(ApplyOptions(str(model), plan, tmp_path / "small", backends=("decilm",)))
    config = json.loads((tmp_path / "small" / "decilm" / "config.json").read_text())
    assert config["architectures"] == ["DeciLMForCausalLM"]
