"""Two processes under torchrun, on the CPU with gloo, end where one process ends: replicated (DDP), sharded (FSDP2)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from graphprune.compiler.compile import compile_model
from graphprune.training.saved_state import latest, read_snapshot
from tests.support.distributed_worker import CASES, all_tensors, compile_options, run_case
from tests.support.tiny_language import WORDS, save_model
from tests.support.tiny_llama import tiny_graph

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("distributed")]
ROOT = Path(__file__).parent.parent.parent
WAYS = ("replicated", "sharded")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_model(tmp_path_factory.mktemp("model"))
    text = torch.randint(len(WORDS), (6000,), generator=torch.Generator().manual_seed(0)).tolist()
    (folder / "text.txt").write_text(" ".join(WORDS[number] for number in text))
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The folder that two processes filled."""
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = [str(ROOT / "tests" / "support" / "distributed_worker.py"), str(folder), str(model)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *worker], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def facts(folder: Path, rank: int) -> dict[str, Any]:
    return json.loads((folder / f"facts-{rank}.json").read_text())  # type: ignore[no-any-return]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


# Half of the rows at a time are other sums, and AdamW divides by the size of a gradient: where that is about zero, the
# rounding is a share of a step, which is 1e-2 here. A row too many or too few makes whole steps of difference.
HUNDREDTH = 1e-4


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-5, atol=HUNDREDTH, msg=lambda m, n=name: f"{n}: {m}")


def close_on_the_whole(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """For bf16: few values are a step apart, most are not."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert (tensor - other[name]).abs().mean() < 1e-3, name


@pytest.mark.parametrize("name", CASES)
def test_two_processes_end_where_one_does(two: Path, tmp_path: Path, name: str) -> None:
    """The same losses step by step, weights and moments; each process has all of them, the first alone has files."""
    alone = run_case(CASES[name], tmp_path, False, lambda moment: None)
    # In bf16 sums depend on the batch, and attention on whether it reads a mask, which it does where it is sharded;
    # where a gradient is about zero, AdamW makes a step of such a difference.
    narrow = name == "narrow"
    tolerance = 2e-3 if narrow else HUNDREDTH
    for way in WAYS:
        folder = two / f"{name}-{way}"
        first, second = (load_file(folder / f"result-{rank}.safetensors") for rank in (0, 1))
        assert all(torch.equal(first[key], second[key]) for key in first)
        if narrow:
            close_on_the_whole(load_file(two / f"{name}-replicated/result-0.safetensors"), first)
        else:
            close(all_tensors(alone.graph), first)
        assert len(losses(folder)) == len(losses(tmp_path)) == 5
        assert losses(folder) == pytest.approx(losses(tmp_path), rel=tolerance, abs=tolerance)
        assert facts(two, 0)["losses"][folder.name] == pytest.approx([alone.loss, alone.held_out], rel=tolerance)


def test_a_killed_training_goes_on_to_the_same_bits(two: Path) -> None:
    for way in WAYS:
        killed, whole = (load_file(two / f"{name}-{way}" / "result-0.safetensors") for name in ("killed", "plain"))
        assert all(torch.equal(killed[name], whole[name]) for name in whole)


def test_the_first_process_alone_writes_and_reports(two: Path) -> None:
    for way in WAYS:
        folder = two / f"plain-{way}"
        assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["best-00000005", "state-00000005"]
        assert facts(two, 0)["reports"][folder.name] > 0
        assert facts(two, 1)["reports"][folder.name] == 0


def test_what_is_saved_is_whole_and_read_by_one_process(two: Path) -> None:
    for way in WAYS:
        state = latest(two / f"parts-{way}")
        assert state is not None
        snapshot, _ = read_snapshot(state)
        result = load_file(two / f"parts-{way}" / "result-0.safetensors")
        assert {n: t.shape for n, t in snapshot.weights.items()} == {
            n: p.shape for n, p in tiny_graph().parameters().items()
        }
        assert all(torch.equal(tensor, result[name]) for name, tensor in snapshot.weights.items())
        moments = {f"{kind}/{name}": t for kind, part in snapshot.moments.tensors.items() for name, t in part.items()}
        assert len(moments) == 2 * len(snapshot.weights)
        assert all(torch.equal(tensor, result[name]) for name, tensor in moments.items())


def test_a_shard_is_a_part_and_layers_come_and_go_as_one(two: Path) -> None:
    for rank in (0, 1):
        assert facts(two, rank)["shares"] == {"held": pytest.approx(0.5, abs=0.02), "modules": 3, "head": True}


def test_processes_that_differ_take_what_the_first_has(two: Path) -> None:
    for rank in (0, 1):
        found = facts(two, rank)["disagreement"]
        assert found["equal"]
        assert found["moments"] == 0
        assert found["shapes"].startswith("TrainingError: process 1 has exp_avg/")
        assert "process 0 as nothing; start all processes with the same command" in found["shapes"]


def test_what_cannot_be_sharded_is_refused(two: Path) -> None:
    for rank in (0, 1):
        assert facts(two, rank)["refusals"]["lora"].startswith("UsageError: LoRA is not trained in shards")
        assert facts(two, rank)["refusals"]["fp16"].startswith("UsageError: precision=fp16")


def test_compile_in_two_processes_writes_what_one_writes(two: Path, model: Path, tmp_path: Path) -> None:
    compile_model(compile_options(model, tmp_path / "compiled"))
    one, other = (load_file(folder / "compiled" / "model.safetensors") for folder in (tmp_path, two))
    close(one, other)
    assert [facts(two, rank)["out"] for rank in (0, 1)] == [str(two / "compiled"), "None"]
    assert not [path for path in two.iterdir() if path.name.startswith(".")]
