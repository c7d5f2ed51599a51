"""Resumption: a killed training ends as if it had not been killed, and a folder belongs to one training."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graphprune.errors import TrainingError, UsageError
from graphprune.training.loop import advance
from graphprune.training.optimizer.moments import KINDS
from graphprune.training.options import TrainOptions
from graphprune.training.resumption import describe, restore, resume, save_training, snapshot
from graphprune.training.session import Session, State, make_accelerator, prepare
from graphprune.training.train import Trained, train
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import tiny_graph
from tests.training.test_train import OPTIONS, equal, lines

pytestmark = pytest.mark.xdist_group("tiny_llama")
ROOT = Path(__file__).parent.parent.parent
LONG = replace(OPTIONS, steps=30, save_every=5, eval_every=10, lr=1e-2)

CHILD = """
import os, signal, sys, warnings
from dataclasses import dataclass
from pathlib import Path
from graphprune.training import saved_state
from graphprune.training.train import train
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import tiny_graph
from tests.training.test_resumption import LONG

def die():
    os.kill(os.getpid(), signal.SIGKILL)

@dataclass(frozen=True)
class Deadly(Rows):
    def rows(self, start, count):
        if start == int(sys.argv[2]):
            die()
        return super().rows(start, count)

durable = saved_state.make_durable

def deadly(path):
    if path.name == "writing-state-00000020" and sys.argv[3] == "save":
        die()
    durable(path)

saved_state.make_durable = deadly
train(tiny_graph(), LONG, Deadly(), held_out=held_out(), folder=Path(sys.argv[1]))
"""


def run_child(folder: Path, row: int, where: str) -> None:
    command = [sys.executable, "-c", CHILD, str(folder), str(row), where]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


@pytest.mark.slow
@pytest.mark.same_bits
def test_killed_in_a_step_and_in_a_save_the_weights_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    run_child(killed, 4 * 13, "step")  # in the fourteenth step: the state of the tenth is on the disk
    assert states(killed) == ["best-00000010", "state-00000010"]
    run_child(killed, -1, "save")
    assert states(killed) == ["best-00000010", "best-00000020", "state-00000015", "writing-state-00000020"]
    resumed = train(tiny_graph(), LONG, Rows(), held_out=held_out(), folder=killed)
    straight = train(tiny_graph(), LONG, Rows(), held_out=held_out(), folder=whole)
    same_training(resumed, straight)
    assert states(killed) == states(whole) == ["best-00000030", "state-00000030"]
    kept = [[{k: v for k, v in row.items() if k != "tokens_per_s"} for row in lines(f)] for f in (killed, whole)]
    assert kept[0] == kept[1]
    assert [row["step"] for row in kept[0]] == list(range(1, 31))


def same_training(one: Trained, other: Trained) -> None:
    assert equal(one.graph, other.graph)
    assert (one.loss, one.held_out, one.best_step) == (other.loss, other.held_out, other.best_step)
    assert one.graph.memo == other.graph.memo
    for kind in KINDS:
        for name, tensor in other.graph.companions[kind].items():
            assert torch.equal(one.graph.companions[kind][name], tensor)


def session(folder: Path, options: TrainOptions = OPTIONS) -> Session:
    return prepare(make_accelerator(options), tiny_graph(), options, Rows(), None, held_out(), folder)


def weights(session: Session) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in session.trainee.trainable.items()}


def test_weights_and_moments_are_put_back_to_the_last_bit(tmp_path: Path) -> None:
    one = session(tmp_path)
    advance(one, 0)
    saved, then = snapshot(one, 1), weights(one)
    wanted, after = advance(one, 1).values, weights(one)
    assert all(torch.equal(saved.weights[name], tensor) for name, tensor in then.items()), "a copy of its own"
    for place in (one, session(tmp_path)):
        restore(place, saved)
        assert all(torch.equal(tensor, then[name]) for name, tensor in weights(place).items())
        assert torch.equal(advance(place, 1).values, wanted)
        assert all(torch.equal(tensor, after[name]) for name, tensor in weights(place).items()), "moments too"


def test_where_a_run_was_comes_back_with_its_metrics(tmp_path: Path) -> None:
    one = session(tmp_path)
    identity = describe(one, tiny_graph())
    _, state, metrics = resume(one, identity)
    assert (state.step, state.loss, state.best, metrics.size) == (0, None, None, 0)
    metrics.write([{"step": 1}])
    watch = state.watch.trained(3.5).evaluated(1, 3.0, 1.0)
    save_training(one, State(4, watch, 3.25, tmp_path / "best-00000001"), metrics, identity)
    metrics.write([{"step": 5}])  # of a step that is not in the saved state
    with torch.no_grad():
        next(iter(one.trainee.trainable.values())).zero_()
    other = session(tmp_path)
    _, found, again = resume(other, describe(other, tiny_graph()))
    assert (found.step, found.watch, found.loss, found.best) == (4, watch, 3.25, tmp_path / "best-00000001")
    assert [row["step"] for row in lines(tmp_path)] == [1]
    assert again.size == (tmp_path / "metrics.jsonl").stat().st_size
    assert all(torch.equal(tensor, tiny_graph().parameters()[name]) for name, tensor in weights(other).items())


def test_two_runs_are_one_whatever_they_save_and_wherever_they_compute(tmp_path: Path) -> None:
    plain = describe(session(tmp_path), tiny_graph())
    same = replace(OPTIONS, save_every=2, teacher_device="cpu")
    assert describe(session(tmp_path, same), tiny_graph()) == plain
    other = session(tmp_path, replace(OPTIONS, seed=1))
    assert describe(other, tiny_graph())["options"] != plain["options"]
    shorter = replace(other, held_out=held_out()[:-1])
    assert describe(shorter, tiny_graph())["held_out"] != plain["held_out"]
    name, tensor = next(iter(tiny_graph().parameters().items()))
    moved = tiny_graph().with_tensors({name: torch.nn.Parameter(tensor.detach().flip(0))})
    assert describe(other, moved)["weights"] != plain["weights"]


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    class Untouchable(Rows):
        def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
            raise AssertionError("trained again")

    first = train(tiny_graph(), OPTIONS, Rows(), folder=tmp_path)
    again = train(tiny_graph(), OPTIONS, Untouchable(), folder=tmp_path)
    same_training(again, first)


CHANGES = [
    pytest.param({"lr": 1e-4}, Rows(), "options.lr was 0.003, is now 0.0001", id="options"),
    pytest.param(
        {"beta1": 0.8, "beta2": 0.9}, Rows(), r"options.betas was \[0.9, 0.95\], is now \[0.8, 0.9\]", id="pair"
    ),
    pytest.param({}, Rows(seed=3), "data.seed was 0, is now 3", id="data"),
]


@pytest.mark.parametrize(("options", "stream", "message"), CHANGES)
def test_changed_options_are_refused_with_the_difference(
    options: dict[str, Any], stream: Rows, message: str, tmp_path: Path
) -> None:
    train(tiny_graph(), OPTIONS, Rows(), folder=tmp_path)
    with pytest.raises(UsageError, match=message):
        train(tiny_graph(), replace(OPTIONS, **options), stream, folder=tmp_path)


def test_other_weights_and_damaged_files_are_refused(tmp_path: Path) -> None:
    trained = train(tiny_graph(), OPTIONS, Rows(), folder=tmp_path).graph
    with pytest.raises(UsageError, match="weights was"):
        train(trained, OPTIONS, Rows(), folder=tmp_path)
    path = tmp_path / "state-00000006" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match=r"state-00000006 cannot be read .* to train from the start"):
        train(tiny_graph(), OPTIONS, Rows(), folder=tmp_path)
