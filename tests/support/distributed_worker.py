"""What each of two processes does under torchrun, and one process alone: trainings whose results are compared.

    torchrun --standalone --nproc-per-node 2 tests/support/distributed_worker.py FOLDER MODEL

writes FOLDER/CASE/result-RANK.safetensors and FOLDER/facts-RANK.json.
"""

import json
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from graphprune.errors import GraphpruneError
from graphprune.ir.graph import Graph
from graphprune.ir.verification import verify
from graphprune.pipeline.options import CompileOptions
from graphprune.processes import is_first, meet, process_count
from graphprune.training.adapters import whole
from graphprune.training.distributed import agreed, shard
from graphprune.training.execution.way import Way
from graphprune.training.objective.predictor import Predictor
from graphprune.training.options import LoraOptions, TrainOptions
from graphprune.training.train import Trained, train
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import tiny_graph

CPU = torch.device("cpu")
ROWS = 4  # of a part of a step, over all processes


@dataclass(frozen=True)
class Uneven(Rows):
    """Rows of which each process gets another number of labels; where `stop` is given, they end there."""

    stop: int | None = None

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        if self.stop is not None and start >= self.stop:
            raise KeyboardInterrupt
        ids, labels = super().rows(start, count)
        for index in range(count):
            labels[index, : (start + index) % 7] = -100
        return ids, labels


@dataclass
class Counter:
    """Counts the reports that a process gives."""

    count: int = 0

    def __call__(self, moment: Any) -> None:
        self.count += 1


@dataclass(frozen=True)
class Case:
    """One training: options, and whether it is killed on the way, goes on from an earlier one, or has a teacher."""

    options: dict[str, Any] = field(default_factory=dict)
    killed: bool = False
    twice: bool = False


CASES = {
    "plain": Case(),
    "parts": Case({"accumulate": 2, "keep": "last"}),
    "killed": Case({"save_every": 2}, killed=True),
    "carried": Case(twice=True),
    "taught": Case({"distill": 0.5}),
    "narrow": Case({"precision": "bf16"}),
}


def run_case(case: Case, folder: Path, sharded: bool, report: Any) -> Trained:
    """Run a training with the same rows in a step, whatever the number of processes."""
    own: dict[str, Any] = {"steps": 5, "lr": 1e-2, "eval_every": 2, "device": "cpu", "rows": ROWS // process_count()}
    options = TrainOptions(**{**own, **case.options, "shard": sharded})
    given: dict[str, Any] = {"held_out": held_out(), "folder": folder, "report": report, "teacher": tiny_graph()}
    if case.killed:
        try:
            train(tiny_graph(), options, Uneven(stop=3 * ROWS), **given)
        except KeyboardInterrupt:
            meet()
    result = train(tiny_graph(), options, Uneven(), **given)
    if case.twice:
        later = replace(options, first_row=5 * ROWS, first_step=5)
        result = train(result.graph, later, Uneven(), **{**given, "folder": folder / "later"})
    verify(result.graph)
    return result


def all_tensors(graph: Graph) -> dict[str, Tensor]:
    flat = {f"{kind}/{name}": tensor for kind, part in graph.companions.items() for name, tensor in part.items()}
    return {name: tensor.detach().contiguous() for name, tensor in {**graph.parameters(), **flat}.items()}


def compile_options(model: Path, out: Path) -> CompileOptions:
    """Prune, train, prune, train, write; on rows of 16 tokens, four a step."""
    rows = f"recover.rows={ROWS // process_count()}"
    return CompileOptions(
        model=str(model),
        target_params="80%",
        out=out,
        method="adapt-accel",
        importance="magnitude",
        allocation="uniform",
        compensation="none",
        data=str(model / "text.txt"),
        train_tokens="1k",
        stages=2,
        lr=1e-2,
        settings=("recover.length=16", rows, "recover.eval_every=4"),
        backends=("huggingface",),
    )


def shares() -> dict[str, float]:
    """Which part of the model this process holds when it is sharded, how many modules come and go as one, and whether
    its head is apart, so that logits are made a few at a time."""
    from torch.distributed.fsdp import FSDPModule

    plain = whole(tiny_graph())
    model = Predictor(plain.graph, 2, 12, way=Way(spread=True))
    trainee = shard(plain, model, CPU)
    held = sum(tensor.to_local().numel() for tensor in trainee.trainable.values())  # type: ignore[attr-defined]
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    return {"held": held / tiny_graph().parameter_count(), "modules": len(modules), "head": model.head is not None}


def disagreement() -> dict[str, Any]:
    """What becomes of processes with other weights, other moments, and other shapes."""
    graph, noise = tiny_graph(), 0.0 if is_first() else 1.0
    moved = graph.with_tensors({n: torch.nn.Parameter(p.detach() + noise) for n, p in graph.parameters().items()})
    moments = {"exp_avg": {name: torch.full_like(p, noise) for name, p in moved.parameters().items()}}
    same = agreed(replace(moved, companions=moments), CPU)
    equal = all(torch.equal(p, graph.tensors()[name]) for name, p in same.parameters().items())
    return {
        "equal": equal,
        "moments": max(float(t.abs().max()) for t in same.companions["exp_avg"].values()),
        "shapes": message_of(lambda: agreed(moved if is_first() else replace(moved, companions=moments), CPU)),
    }


def message_of(call: Any) -> str:
    try:
        call()
    except GraphpruneError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def refusals(folder: Path) -> dict[str, str]:
    """What cannot be trained in shards."""
    options: dict[str, dict[str, Any]] = {"lora": {"lora": LoraOptions(2)}, "fp16": {"precision": "fp16"}}
    return {
        name: message_of(partial(run_case, Case(given), folder, True, Counter())) for name, given in options.items()
    }


def main(folder: Path, model: Path) -> None:
    from graphprune.compiler.compile import compile_model

    torch.set_num_threads(1)
    rank = 0 if is_first() else 1
    facts: dict[str, Any] = {"reports": {}, "losses": {}}
    for name, case in CASES.items():
        for way in ("replicated", "sharded"):
            counter, place = Counter(), folder / f"{name}-{way}"
            result = run_case(case, place, way == "sharded", counter)
            save_file(all_tensors(result.graph), place / f"result-{rank}.safetensors")
            facts["reports"][place.name] = counter.count
            facts["losses"][place.name] = [result.loss, result.held_out]
    facts |= {"shares": shares(), "disagreement": disagreement(), "refusals": refusals(folder)}
    facts["out"] = str(compile_model(compile_options(model, folder / "compiled")).out)
    (folder / f"facts-{rank}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
