"""Distillation against its formula, teachers that do not fit, and LoRA adapters that are merged."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.ir.verification import verify
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import decoder_inputs
from graphprune.training import objective
from graphprune.training.adapters import adapted
from graphprune.training.objective import counted_tokens, objective_sums
from graphprune.training.options import LoraOptions, TrainOptions
from graphprune.training.train import train
from tests.support.families import graph as family
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=6, rows=4, lr=3e-3, device="cpu")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels_of(rows: int, length: int, words: int) -> Tensor:
    labels = torch.randint(words, (rows, length), generator=torch.Generator().manual_seed(2))
    labels[0, 3:5] = -100
    return labels


def reference(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, temperature: float) -> float:
    """The formula, one token at a time in float64."""
    total = 0.0
    for row in range(len(labels)):
        for place in range(1, labels.shape[1]):
            if labels[row, place] != -100:
                s, t = student[row, place - 1].double(), teacher[row, place - 1].double()
                p, q = (t / temperature).softmax(0), (s / temperature).softmax(0)
                divergence = temperature**2 * float((p * (p.log() - q.log())).sum())
                total += alpha * divergence - (1 - alpha) * float(s.log_softmax(0)[labels[row, place]])
    return total


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("chunk", [1 << 25, 40])
def test_the_loss_is_the_formula_also_in_parts(alpha: float, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "_LARGEST_CHUNK", chunk)
    student, teacher, labels = draw(3, 6, 9).requires_grad_(), draw(3, 6, 9, seed=1), labels_of(3, 6, 9)
    loss, entropy, divergence = objective_sums(student, labels, teacher, alpha, 2.0)
    assert loss.item() == pytest.approx(reference(student.detach(), teacher, labels, alpha, 2.0), rel=1e-5)
    assert loss.item() == pytest.approx(alpha * divergence.item() + (1 - alpha) * entropy.item(), rel=1e-5)
    assert counted_tokens(labels) == 3 * 5 - 2
    loss.backward()
    assert student.grad is not None
    nothing = student.grad[0, 2:4].abs().sum() + student.grad[:, -1].abs().sum()
    assert nothing == 0
    assert student.grad[0, :2].abs().sum() > 0


def test_parts_have_the_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for chunk in (1 << 25, 40):
        monkeypatch.setattr(objective, "_LARGEST_CHUNK", chunk)
        student = draw(3, 6, 9).requires_grad_()
        objective_sums(student, labels_of(3, 6, 9), draw(3, 6, 9, seed=1), 0.5, 2.0)[0].backward()
        gradients.append(student.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_student_that_is_the_teacher_has_no_gradient() -> None:
    student = draw(3, 6, 9).requires_grad_()
    loss, _, divergence = objective_sums(student, labels_of(3, 6, 9), student.detach().clone(), 1.0, 2.0)
    loss.backward()
    assert student.grad is not None
    assert abs(divergence.item()) < 1e-5
    assert student.grad.abs().max() < 1e-6


def pruned() -> Graph:
    groups = [g for g in analyze(tiny_graph()).groups if g.kind == "mlp"]
    return apply(tiny_graph(), Plan({g.id: tuple(range(g.units // 4)) for g in groups}))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("dtype", ["none", "bf16"])
def test_a_student_comes_nearer_to_its_teacher(dtype: Any, tmp_path: Path) -> None:
    teacher = train(tiny_graph(), replace(OPTIONS, steps=40, lr=1e-2), Rows(seed=9)).graph
    options = replace(OPTIONS, steps=40, lr=1e-2, distill=1.0, teacher_dtype=dtype, teacher_device="cpu")
    train(tiny_graph(), options, Rows(), teacher=teacher, folder=tmp_path)
    rows = rows_of(tmp_path)
    assert rows[-1]["kd"] < rows[0]["kd"] / 2
    assert rows[0]["loss"] == rows[0]["kd"]
    assert rows[0]["ce"] > 1


def test_a_teacher_with_another_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the teacher knows 61 tokens and the student 64; .* set distill=0"):
        train(tiny_graph(), replace(OPTIONS, distill=0.5), Rows(), teacher=family("llama"))
    with pytest.raises(UsageError, match="distillation needs a teacher"):
        train(tiny_graph(), replace(OPTIONS, distill=0.5), Rows())


# LoRA

LORA = replace(OPTIONS, lora=LoraOptions(rank=2, alpha=8.0), lr=1e-2)


def test_lora_changes_the_layers_it_adapts_and_nothing_else() -> None:
    options = replace(LORA, lora=LoraOptions(rank=2, alpha=8.0, targets=("q_proj", "layers.0.mlp.down_proj")))
    trained = train(tiny_graph(), options, Rows()).graph
    verify(trained)
    changed = {name for name, t in trained.tensors().items() if not torch.equal(t, tiny_graph().tensors()[name])}
    assert changed == {
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
    }
    for name in changed:
        difference = (trained.tensors()[name] - tiny_graph().tensors()[name]).detach()
        assert torch.linalg.matrix_rank(difference, rtol=1e-4) <= 2
    assert list(trained.tensors()) == list(tiny_graph().tensors())
    assert not trained.companions


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_merged_graph_computes_what_the_adapted_model_does(name: str) -> None:
    source = family(name)
    trainee = adapted(source, LoraOptions(rank=3), seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(trainee.trainable.values()):
            parameter.copy_(0.1 * draw(*parameter.shape, seed=number))
    ids = torch.arange(24).view(2, 12)
    merged = source.with_tensors({n: torch.nn.Parameter(t) for n, t in trainee.merged().items()})
    inputs = decoder_inputs(source, ids)
    with torch.no_grad():
        expected, found = trainee.graph(*inputs)[0], merged(*inputs)[0]
        assert not torch.allclose(source(*inputs)[0], found, atol=1e-2)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert all("lora_" in key for key in trainee.trainable)
    assert "lm_head.weight" not in trainee.merged()


def test_lora_learns_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    options = replace(LORA, steps=20, lora=LoraOptions(rank=4, dropout=0.2), eval_every=10, save_every=5)
    straight = train(pruned(), options, Rows(), held_out=held_out(), folder=tmp_path / "straight")
    rows = rows_of(tmp_path / "straight")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.1

    class Broken(Rows):
        def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
            if start == 4 * 12:
                raise KeyboardInterrupt
            return super().rows(start, count)

    with pytest.raises(KeyboardInterrupt):
        train(pruned(), options, Broken(), held_out=held_out(), folder=tmp_path / "resumed")
    resumed = train(pruned(), options, Rows(), held_out=held_out(), folder=tmp_path / "resumed")
    left, right = resumed.graph.tensors(), straight.graph.tensors()
    assert all(torch.equal(left[name], right[name]) for name in right)


def test_lora_targets_that_do_not_occur_are_refused() -> None:
    with pytest.raises(UsageError, match=r"LoRA finds no linear layer query; the layers are .*q_proj"):
        train(tiny_graph(), replace(OPTIONS, lora=LoraOptions(targets=("query",))), Rows())
    with pytest.raises(UsageError, match="the rank of LoRA is 1 or more"):
        LoraOptions(rank=0)


def test_lora_without_peft_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"pip install graphprune\[lora\]"):
        train(tiny_graph(), LORA, Rows())
