"""Runs that are kept: what is saved is what comes back, and a run that was killed ends as one that was not."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from graphprune.compiler.compile import keeps_state
from graphprune.errors import InvariantError, PassError, UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Step
from graphprune.ir.plan import Edit, Plan
from graphprune.pipeline.passes import Context, Pass, run_passes
from graphprune.pipeline.recipes import read_recipe
from graphprune.pipeline.run_state import (
    METRICS,
    earlier_seconds,
    load_state,
    metrics_files,
    open_run,
    pass_folder,
    save_state,
    with_values,
)
from graphprune.rewriting.apply import apply
from graphprune.weights.stored import store
from tests.support.tiny_llama import ids, tiny_graph
from tests.support.tiny_source import write_source

MLP = "model.layers.0.mlp.gate_proj.weight"


@dataclass(frozen=True)
class Shift(Pass):
    """Adds to a weight, keeps moments and a memo, and writes a measurement, as a training would."""

    name: ClassVar[str] = "shift"
    by: float = 1.0

    def run(self, graph: Graph, context: Context) -> Graph:
        old = graph.parameters()[MLP].detach()
        assert context.folder is not None
        (context.folder / METRICS).write_text(json.dumps({"by": self.by}) + "\n")
        made = graph.with_tensors({MLP: torch.nn.Parameter(old + self.by)})
        made = replace(made, companions={"exp_avg": {MLP: old * self.by}})
        return made.remember("shifts", [*graph.memo.get("shifts", []), self.by])


@dataclass(frozen=True)
class Break(Pass):
    """Fails as long as a file is there."""

    name: ClassVar[str] = "break"
    file: str = ""

    def run(self, graph: Graph, context: Context) -> Graph:
        if Path(self.file).exists():
            raise ZeroDivisionError("as asked")
        return graph


@dataclass(frozen=True)
class Cut(Pass):
    """Keeps every other channel of the first MLP."""

    name: ClassVar[str] = "cut"

    def run(self, graph: Graph, context: Context) -> Graph:
        return apply(graph, Plan({f"{MLP}:0": tuple(range(0, 24, 2))}))


def assert_same(one: Graph, other: Graph) -> None:
    assert str(one) == str(other)
    assert_equal_tensors(one.tensors(), other.tensors())
    assert set(one.companions) == set(other.companions)
    for kind, tensors in one.companions.items():
        assert_equal_tensors(tensors, other.companions[kind])
    assert (one.lineage, dict(one.memo), one.history) == (other.lineage, dict(other.memo), other.history)
    assert one.notes == other.notes
    assert list(one.parameters()) == list(other.parameters()), "ties stay ties"


def assert_equal_tensors(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    assert set(one) == set(other)
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name]), name


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    source = tiny_graph()
    passes = (Cut(), Shift(), Shift(2.0))
    graph = run_passes(source, passes, Context(folder=tmp_path))
    found = load_state(tmp_path, source)
    assert found is not None
    assert found[0] == 2
    assert_same(found[1], graph)
    assert [json.loads(line)["by"] for path in metrics_files(tmp_path) for line in path.read_text().splitlines()] == [
        1,
        2,
    ]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "shared") == ["after-2"]
    assert len(found[1].history) == 3


def test_a_state_keeps_biases_that_a_compensation_added(tmp_path: Path) -> None:
    source = tiny_graph()
    weight = "model.layers.0.mlp.down_proj.weight"
    graph = apply(source, Plan({f"{MLP}:0": tuple(range(0, 24, 2))}, edits=(Edit("bias", weight),))).note("a note")
    bias = weight.replace("weight", "bias")
    graph = graph.with_tensors({bias: torch.nn.Parameter(torch.ones_like(graph.tensors()[bias]))})
    save_state(tmp_path, 0, graph)
    found = load_state(tmp_path, source)
    assert found is not None
    assert_same(found[1], graph)


def test_only_what_is_left_is_run(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    folder = tmp_path / "run"
    folder.mkdir()
    passes = (Cut(), Shift(), Break(str(stop)), Shift(4.0))
    with pytest.raises(PassError, match=r"the pass break\{file=.*\} failed after cut, shift: ZeroDivisionError"):
        run_passes(tiny_graph(), passes, Context(folder=folder))
    stop.unlink()
    lines: list[str] = []
    resumed = run_passes(tiny_graph(), passes, Context(folder=folder, log=lines.append))
    assert [line.partition(":")[0] for line in lines] == [f"break{{file={stop}}}", "shift{by=4.0}"]
    other = tmp_path / "other"
    other.mkdir()
    assert_same(resumed, run_passes(tiny_graph(), passes, Context(folder=other)))


def test_a_half_written_state_counts_for_nothing(tmp_path: Path) -> None:
    source = tiny_graph()
    graph = run_passes(source, (Cut(), Shift()), Context(folder=tmp_path))
    (tmp_path / "new-2").mkdir()
    (tmp_path / "new-2" / "tensors.safetensors").write_bytes(b"half")
    found = load_state(tmp_path, source)
    assert found is not None
    assert found[0] == 1
    assert_same(found[1], graph)
    assert not (tmp_path / "new-2").exists()


@pytest.mark.parametrize("name", ["graph.json", "tensors.safetensors", "companions.safetensors"])
def test_a_damaged_state_says_what_to_do(name: str, tmp_path: Path) -> None:
    save_state(tmp_path, 0, tiny_graph())
    path = tmp_path / "after-0" / name
    path.write_bytes(path.read_bytes()[:3])
    with pytest.raises(UsageError, match=r"is damaged .*--restart"):
        load_state(tmp_path, tiny_graph())


def test_a_new_state_takes_the_old_one_s_place(tmp_path: Path) -> None:
    save_state(tmp_path, 9, tiny_graph().remember("turn", 9))
    save_state(tmp_path, 10, tiny_graph().remember("turn", 10).record(Step("x", None, 1, 2)))
    found = load_state(tmp_path, tiny_graph())
    assert found is not None
    assert (found[0], found[1].memo, len(found[1].history)) == (10, {"turn": 10}, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["after-10"]


def test_a_memo_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises((InvariantError, TypeError)):
        save_state(tmp_path, 0, tiny_graph().remember("bad", {1: 2}))
    assert load_state(tmp_path, tiny_graph()) is None


def test_a_state_of_another_model_is_refused() -> None:
    with pytest.raises(InvariantError, match="does not fit the graph"):
        with_values(tiny_graph(), {MLP: torch.zeros(3, 3)})


def run_of(**changes: Any) -> dict[str, Any]:
    return {"target": 60, "recipe": {"stages": 2, "recover": {"lr": 0.1}}, **changes}


def leave_state(folder: Path) -> None:
    (folder / "after-0").mkdir(exist_ok=True)
    (folder / "after-0" / "graph.json").write_text("{}")


def test_a_changed_run_is_refused_with_what_changed(tmp_path: Path) -> None:
    folder = tmp_path / ".out.graphprune-run"
    with open_run(folder, run_of()) as going_on:
        assert not going_on
        leave_state(folder)
    with open_run(folder, run_of()) as going_on:
        assert going_on
    changed = run_of(target=50, recipe={"stages": 2, "recover": {"lr": 0.2}, "shares": "linear"})
    with pytest.raises(UsageError) as caught, open_run(folder, changed):
        pass
    said = str(caught.value)
    assert "target: 60 -> 50; recipe.recover.lr: 0.1 -> 0.2; recipe.shares: null -> linear" in said
    assert "--restart" in said
    with open_run(folder, changed, restart=True) as going_on:
        assert not going_on
        leave_state(folder)
    with open_run(folder, changed) as going_on:
        assert going_on


def test_a_run_that_kept_nothing_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / ".out.graphprune-run"
    with open_run(folder, run_of()):
        (folder / "pass-0").mkdir()
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with (
        open_run(tmp_path / "run", run_of()),
        pytest.raises(UsageError, match="another process works in"),
        open_run(tmp_path / "run", run_of()),
    ):
        pass


def test_a_damaged_description_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UsageError, match="damaged; --restart"), open_run(tmp_path, run_of()):
        pass


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(tmp_path: Path) -> None:
    source = write_source(tmp_path / "model")
    command = [sys.executable, "-m", "tests.support.killed_runs", str(tmp_path), str(source), "7", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent.parent, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["killed"] >= 2
    assert result["resumed"] == result["quiet"]


def test_the_model_s_output_is_the_same_too(tmp_path: Path) -> None:
    from graphprune.running.loss import next_token_loss

    graph = run_passes(tiny_graph(), (Cut(), Shift()), Context(folder=tmp_path))
    found = load_state(tmp_path, tiny_graph())
    assert found is not None
    assert torch.equal(next_token_loss(found[1], ids(2, 9)), next_token_loss(graph, ids(2, 9)))


def test_parts_that_were_interrupted_count_up_to_what_they_kept(tmp_path: Path) -> None:
    assert earlier_seconds(tmp_path, 1000.0) == 0.0
    assert earlier_seconds(tmp_path, 2000.0) == 0.0, "nothing was kept, so nothing is gone on with"
    kept = pass_folder(tmp_path, 0)
    (kept / "state").write_text("x")
    for path in (kept, kept / "state"):
        os.utime(path, (2030.0, 2030.0))
    assert earlier_seconds(tmp_path, 5000.0) == 30.0
    os.utime(kept / "state", (5100.0, 5100.0))
    assert earlier_seconds(tmp_path, 9000.0) == 130.0


def test_what_trains_or_searches_keeps_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_graph()
    names = ("evolve", "bypass", "adapt-accel", "adapt-pruner-ls", "taylor")
    kept = {name: keeps_state(read_recipe(name), source) for name in names}
    assert kept == {"evolve": True, "bypass": True, "adapt-accel": True, "adapt-pruner-ls": False, "taylor": False}
    large = source.with_tensors({name: store(t, t.dtype) for name, t in source.parameters().items()})
    assert keeps_state(read_recipe("taylor"), large), "it stays in its file"
    monkeypatch.setenv("WORLD_SIZE", "2")  # the others train along, and do not search
    assert not keeps_state(read_recipe("evolve"), source)
    assert keeps_state(read_recipe("adapt-accel"), source)
