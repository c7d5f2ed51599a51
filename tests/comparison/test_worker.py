"""What the process of a cell does: it goes the way of `compile`, counts what is there, and measures by the protocol."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from graphprune.comparison import worker
from graphprune.comparison.cells import CellPlan
from graphprune.comparison.compare import prepare
from graphprune.comparison.measuring import measure_tasks, measure_text, task_results
from graphprune.comparison.options import CompareOptions
from graphprune.comparison.running import explain_end, folder_name, work_of
from graphprune.comparison.schema import Measured
from graphprune.comparison.worker import Lines, Work, make_and_measure
from graphprune.compiler.compile import capture_for_work, compile_model
from graphprune.errors import UsageError
from graphprune.evaluation.language_model import of_checkpoint
from graphprune.evaluation.scorecard import Questions, score_text
from graphprune.evaluation.task_scores import TaskScore
from graphprune.progress import no_progress

Options = Callable[..., CompareOptions]


def plans_of(options: CompareOptions) -> dict[str, CellPlan]:
    return {plan.title: plan for plan in prepare(options).plans}


def made(plan: CellPlan, keep: Path | None = None) -> Measured:
    return make_and_measure(Work(plan.asked, plan.protocol, plan.dense, keep), no_progress)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.slow
def test_a_cell_has_the_weights_that_compile_writes(options: Options, tmp_path: Path) -> None:
    """Cut and trained in turns, with biases that make up for what went."""
    asked = options(
        methods=("x=magnitude+uniform+bias+stages=2",),
        targets=("80%",),
        train_tokens=("1k",),
        settings=("recover.length=16",),
    )
    plan = prepare(asked).plans[1]
    found = made(plan, tmp_path / "cell")
    compile_model(replace(plan.asked, out=tmp_path / "compiled", backends=("huggingface",)))
    mine, theirs = tensors(tmp_path / "cell"), tensors(tmp_path / "compiled")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    counted = {name: tensor.numel() for name, tensor in mine.items() if "freq" not in name}  # a buffer
    assert found.parameters == sum(counted.values()), "biases are counted"
    assert any(name.endswith("bias") for name in counted)
    assert found.parameters <= found.wanted
    assert found.training.wall > 0
    assert found.cut.wall > 0
    assert 0 < found.peak_made <= found.peak
    assert found.device_peak is None, "it is made on the processor"


def test_the_dense_cell_is_the_model_as_it_is_by_the_protocol_of_eval(options: Options, model: Path) -> None:
    asked = options(window=16, stride=16, bos=False, text_tokens=200)
    found = made(prepare(asked).plans[0])
    card = score_text(
        of_checkpoint(str(model), dtype=torch.float32),
        Questions(asked.held_out, window=16, stride=16, bos=False, text_tokens=200),
    )
    assert found.nats_per_token == pytest.approx(card.nats_per_token, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(card.bits_per_byte, rel=1e-5)
    assert found.predicted == card.tokens == 200 - 13
    assert found.guess_nats == pytest.approx(math.log(300))
    assert found.guess_bits == pytest.approx(math.log2(300) * 200 / found.text_bytes)
    assert (found.cut.wall, found.training.wall) == (0.0, 0.0)


def test_methods_see_the_same_windows_at_one_seed_and_never_the_reported_text(
    options: Options, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = worker.prepare_method

    def watch(*arguments: Any) -> Any:
        prepared = real(*arguments)
        seen.append(prepared.context)
        return prepared

    monkeypatch.setattr(worker, "prepare_method", watch)
    for plan in prepare(options(methods=("magnitude", "obs"), targets=("80%",), seeds=2)).plans[1:]:
        made(plan)
    first, second, other, _ = [torch.cat(context.calibration) for context in seen]
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    text = (model / "text.txt").read_text()
    held = seen[0].tokenizer.decode(seen[0].held_out)
    assert text.endswith(held), "choices are made by the end of the training text"
    assert seen[0].data == f"{model / 'text.txt'}#train"
    reported = (model / "val.txt").read_text()
    assert held not in reported


def test_windows_longer_than_the_model_are_refused(options: Options, model: Path) -> None:
    graph = capture_for_work(str(model), False)
    protocol = replace(prepare(options()).plans[0].protocol, window=65)
    with pytest.raises(UsageError, match="longer than the model's context of 64"):
        measure_text(graph, protocol, torch.device("cpu"), no_progress)
    assert measure_tasks(graph, protocol, no_progress) == []


def test_what_chance_gets_is_known_of_tasks_with_one_number_of_answers() -> None:
    names = ("arc_easy_local", "blimp_local", "blimp_transitive_local", "commonsense_local", "lambada_openai")
    scores = tuple(TaskScore(name, "acc", 0.5, 0.1, 10, 0) for name in names)
    assert [result.guess for result in task_results(scores)] == [0.25, 0.5, 0.5, None, None]


def test_a_process_answers_with_lines(
    options: Options, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def answer(text: str) -> list[dict[str, Any]]:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        worker.main()
        return [json.loads(line) for line in capfd.readouterr().out.splitlines()]

    plans = plans_of(options(methods=("magnitude", "none=magnitude+prune.kinds=[experts]"), targets=("80%",)))
    told = answer(work_of(plans["magnitude at 80%, seed 0"], None))
    assert told[0] == {"progress": ["reading the model", 0, 0]}
    Measured.model_validate(told[-1]["measured"])
    failed = answer(work_of(plans["none at 80%, seed 0"], None))
    assert failed[-1] == {"error": "--prune experts: this model has no such groups; see `graphprune inspect`"}


def test_an_error_that_is_no_one_s_is_a_line_too(
    options: Options, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(worker, "make_and_measure", fail)
    monkeypatch.setattr("sys.stdin", io.StringIO(work_of(prepare(options()).plans[0], None)))
    assert worker.main() == 1
    assert json.loads(capfd.readouterr().out) == {"error": "ZeroDivisionError: division by zero"}


def test_progress_is_told_a_few_times_a_second(capfd: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for done in range(1000):
        lines("pruning", done, 1000)
    lines("measuring", 0, 10)
    told = [json.loads(line)["progress"] for line in capfd.readouterr().out.splitlines()]
    assert told[0] == ["pruning", 0, 1000]
    assert told[-1] == ["measuring", 0, 10]
    assert len(told) < 10


def test_the_end_of_a_process_is_explained(options: Options) -> None:
    assert explain_end(-9, []).startswith("its process was killed, as systems do where memory runs out")
    assert explain_end(-11, []) == "its process ended by SIGSEGV"
    assert explain_end(3, ["a", "b"]) == "its process ended with code 3: b"
    assert explain_end(3, []) == "its process ended with code 3: it said nothing"
    plan = prepare(options()).plans[1]
    assert folder_name(replace(plan, method="a/../b c")) == "a_.._b_c-80-seed0-0"
