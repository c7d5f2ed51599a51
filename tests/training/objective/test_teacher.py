"""Teachers: a student comes nearer to one, and one that does not fit is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune.errors import UsageError
from graphprune.running.inputs import decoder_inputs
from graphprune.training.objective.teacher import make_teacher
from graphprune.training.options import TrainOptions
from graphprune.training.train import train
from tests.support.families import graph as family
from tests.support.rows import Rows
from tests.support.tiny_llama import ids, tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=6, rows=4, lr=3e-3, device="cpu")


def test_features_and_head_are_the_teachers_logits() -> None:
    graph, tokens = tiny_graph(), ids(2, 7)
    teacher = make_teacher(graph, OPTIONS, 7, torch.device("cpu"))
    expected = graph(*decoder_inputs(graph, tokens))[graph.outputs.index("logits")]
    found = teacher.logits(teacher(tokens).flatten(0, 1))
    torch.testing.assert_close(found, expected.flatten(0, 1))
    assert not found.requires_grad


@pytest.mark.parametrize("dtype", ["none", "bf16"])
def test_a_student_comes_nearer_to_its_teacher(dtype: Any, tmp_path: Path) -> None:
    teacher = train(tiny_graph(), replace(OPTIONS, steps=40, lr=1e-2), Rows(seed=9)).graph
    options = replace(OPTIONS, steps=40, lr=1e-2, distill=1.0, teacher_dtype=dtype, teacher_device="cpu")
    train(tiny_graph(), options, Rows(), teacher=teacher, folder=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["kd"] < rows[0]["kd"] / 2
    assert rows[0]["loss"] == rows[0]["kd"]
    assert rows[0]["ce"] > 1


def test_a_teacher_with_another_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the teacher knows 61 tokens and the student 64; .* set distill=0"):
        train(tiny_graph(), replace(OPTIONS, distill=0.5), Rows(), teacher=family("llama"))
    with pytest.raises(UsageError, match="distillation needs a teacher"):
        train(tiny_graph(), replace(OPTIONS, distill=0.5), Rows())
