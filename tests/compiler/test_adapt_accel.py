"""Pruning and training in turns, from the command to the folder: what is written, and what a stop leaves."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import graphprune
from graphprune.cli import main
from graphprune.compiler.compile import compile_model
from graphprune.errors import BudgetError, UsageError
from graphprune.pipeline.options import CompileOptions, work_folder
from graphprune.pipeline.recipes import read_recipe
from graphprune.reporting.results import Result
from graphprune.reporting.schema import Report
from tests.support.tiny_source import write_source

pytestmark = pytest.mark.xdist_group("accel")
Capture = pytest.CaptureFixture[str]
RECIPE = """
name: tiny-accel
calibration: {samples: 8, length: 24}
prune: {importance: taylor, allocation: global}
stages: 3
recover: {tokens: 1k, rows: 2, length: 16, lr: 1e-3, save_every: 1}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_source(tmp_path_factory.mktemp("accel"))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def options(source: Path, out: Path, **changes: Any) -> CompileOptions:
    method, data = str(source / "recipe.yaml"), str(source / "text.txt")
    plain = CompileOptions(str(source), "70%", out, method=method, data=data, backends=("huggingface",))
    return replace(plain, **changes)


def command(given: CompileOptions) -> list[str]:
    line = ["compile", given.model, "-o", str(given.out), "--target-params", given.target_params]
    return [*line, "--method", given.method, "--data", given.data, "--backends", ",".join(given.backends)]


@pytest.fixture(scope="module")
def compiled(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("compiled") / "out"
    return out, compile_model(options(source, out))


def test_prunes_and_trains_in_turns_to_the_size(compiled: tuple[Path, Result]) -> None:
    _, result = compiled
    history = result.report["history"]
    assert [step["spec"].partition("{")[0] for step in history] == ["prune", "recover"] * 3
    sizes = [history[0]["parameters_before"], *(step["parameters_after"] for step in history[::2])]
    removed = [before - after for before, after in itertools.pairwise(sizes)]
    assert max(removed) - min(removed) <= 2 * 3 * 32, "each cut is a third, up to a unit"
    assert sizes[-1] <= 0.7 * sizes[0]
    assert all(check.passed for check in result.checks)
    assert {check.artefact for check in result.checks} == {"graph", "huggingface"}


def test_weights_are_stored_as_the_source_stores_them(source: Path, compiled: tuple[Path, Result]) -> None:
    out, _ = compiled
    before, after = load_file(source / "model.safetensors"), load_file(out / "model.safetensors")
    assert {after[name].dtype for name in before if name in after} == {torch.bfloat16}
    name = "model.embed_tokens.weight"
    assert not torch.equal(before[name], after[name]), "and were trained"


def test_the_report_says_what_was_trained(compiled: tuple[Path, Result]) -> None:
    out, result = compiled
    rows = result.report["training"]
    Report.model_validate_json(json.dumps(result.report))
    assert [row["stage"] for row in rows] == [1, 2, 3]
    assert sum(row["tokens"] for row in rows) == 1024, "32 steps of 32 tokens"
    assert rows[-1]["step"] == 32, "one schedule over all stages"
    lines = [json.loads(line) for line in (out / "graphprune" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 33))
    assert rows[-1]["loss"] == lines[-1]["loss"]
    assert rows[-1]["held_out_last"] < rows[0]["held_out_first"]
    assert result.report["method"]["name"] == "tiny-accel"
    assert "1,024 tokens" in (out / "README.md").read_text()
    assert any("trained on 1,024 tokens" in note for note in result.notes)


def test_the_state_is_gone_when_the_result_is_there(compiled: tuple[Path, Result]) -> None:
    out, _ = compiled
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_the_resolved_recipe_makes_the_same_weights(
    source: Path, compiled: tuple[Path, Result], tmp_path: Path
) -> None:
    out, _ = compiled
    again = options(source, tmp_path / "out", method=str(out / "graphprune" / "recipe.yaml"))
    compile_model(again)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.same_bits
def test_killed_and_started_again_it_writes_the_same_file(
    source: Path, compiled: tuple[Path, Result], tmp_path: Path, capsys: Capture
) -> None:
    out, _ = compiled
    mine = options(source, tmp_path / "out")
    kill_in_the_middle(mine)
    kept = work_folder(tmp_path / "out")
    assert kept.is_dir()
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError) as caught:
        compile_model(replace(mine, lr=0.5, seed=3))
    assert "seed: 0 -> 3; recipe.recover.lr: 0.001 -> 0.5" in str(caught.value)
    assert "--restart" in str(caught.value)
    assert kept.is_dir(), "a refusal leaves the state"
    assert main.run(command(mine)) == 0
    assert f"going on from {kept}" in capsys.readouterr().err.splitlines()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    report = json.loads((tmp_path / "out" / "graphprune" / "report.json").read_text())
    assert sum(row["tokens"] for row in report["training"]) == 1024


def kill_in_the_middle(given: CompileOptions) -> None:
    """Start the command and kill it with SIGKILL while it trains in its second stage."""
    code = f"from graphprune.cli import main; main.run({command(given)!r})"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment) as process:
        for line in lines_of(process):
            if line.startswith("4/6 recovering"):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


def lines_of(process: "subprocess.Popen[str]") -> Iterator[str]:
    assert process.stderr is not None
    began = time.monotonic()
    for line in process.stderr:
        assert time.monotonic() - began < 250, "it never came to its second stage"
        yield line


def test_ctrl_c_says_how_to_go_on(
    source: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphprune.compiler.deliver.write_all", interrupt)
    mine = options(source, tmp_path / "out")
    assert main.run(command(mine)) == 130
    kept = work_folder(tmp_path / "out")
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"error: interrupted; the same command goes on from {kept}, with --restart it begins again"
    assert [path.name for path in kept.glob("after-*")] == ["after-5"]


def test_a_target_out_of_reach_is_told_before_anything_is_trained(source: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(BudgetError, match="the least"):
        compile_model(
            options(source, tmp_path / "out", target_params="20%", prune=("mlp",)), lambda s, *_: lines.append(s)
        )
    assert not [line for line in lines if "recovering" in line]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_needs_no_text_and_writes_nothing(source: Path, tmp_path: Path) -> None:
    result = compile_model(options(source, tmp_path / "out", dry_run=True, data="nowhere.txt"))
    sizes = next(m for m in result.measures if m.name == "parameters")
    assert sizes.after is not None
    assert sizes.before is not None
    assert sizes.after <= 0.7 * sizes.before
    assert list(tmp_path.iterdir()) == []


def test_the_library_runs_a_recipe_on_a_graph(source: Path, tmp_path: Path) -> None:
    from graphprune.data.calibration import prepare_text

    graph = graphprune.capture(str(source), dtype=torch.float32)
    text = prepare_text(graph, str(source / "text.txt"), 4, 24, 0)
    context = graphprune.Context(
        calibration=text.batches, tokenizer=text.tokenizer, data=str(source / "text.txt"), held_out=text.held_out
    )
    recipe = read_recipe(str(source / "recipe.yaml")).model_copy(update={"stages": 2})
    small = graphprune.run_recipe(graph, recipe, "80%", context)
    assert small.parameter_count() <= 0.8 * graph.parameter_count()
    assert [step.spec.partition("{")[0] for step in small.history] == ["prune", "recover"] * 2
    assert set(small.companions) == {"exp_avg", "exp_avg_sq"}, "the moments were carried"
    assert {n: t.shape for n, t in small.companions["exp_avg"].items()} == {
        n: p.shape for n, p in small.parameters().items()
    }
