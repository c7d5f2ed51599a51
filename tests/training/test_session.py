"""What stays the same while a training runs: a copy of the model, its optimizer, one device and one precision."""

import math
from dataclasses import replace

import pytest
import torch

from graphprune.ir.graph import Graph
from graphprune.training.optimizer.moments import KINDS, read_moments
from graphprune.training.options import LoraOptions, TrainOptions
from graphprune.training.session import Session, State, make_accelerator, prepare
from tests.support.rows import Rows
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=6, rows=3, accumulate=2, device="cpu")


def session(options: TrainOptions = OPTIONS, graph: Graph | None = None, teacher: Graph | None = None) -> Session:
    return prepare(make_accelerator(options), graph or tiny_graph(), options, Rows(), teacher, None, None)


def test_a_step_is_all_rows_of_all_parts_and_a_guess_is_a_uniform_one() -> None:
    made = session()
    assert made.tokens_per_step == 3 * 2 * 12
    assert made.guess == pytest.approx(math.log(64))
    assert (State().step, State().loss, State().best) == (0, None, None)


def test_what_is_trained_is_a_copy_whose_parameters_all_learn() -> None:
    made, source = session(), tiny_graph()
    assert list(made.trainee.trainable) == list(source.parameters())
    for name, parameter in made.trainee.trainable.items():
        assert parameter.requires_grad
        assert parameter.data_ptr() != source.parameters()[name].data_ptr()
        assert torch.equal(parameter, source.parameters()[name])


def with_moments() -> Graph:
    companions = {
        kind: {name: torch.full_like(p.detach(), 0.25 + place) for name, p in tiny_graph().parameters().items()}
        for place, kind in enumerate(KINDS)
    }
    return replace(tiny_graph(), companions=companions).remember("moments", {"updates": 7})


def test_moments_that_the_graph_brings_are_carried_on_or_left() -> None:
    carried = session(graph=with_moments())
    moments = read_moments(carried.optimizer, carried.trainee.trainable)
    assert moments.updates == 7
    assert {kind: {float(t.mean()) for t in part.values()} for kind, part in moments.tensors.items()} == {
        "exp_avg": {0.25},
        "exp_avg_sq": {1.25},
    }
    reset = session(replace(OPTIONS, moments="reset"), with_moments())
    assert read_moments(reset.optimizer, reset.trainee.trainable).updates == 0
    assert read_moments(session().optimizer, session().trainee.trainable).updates == 0


def test_adapters_alone_learn_and_have_moments_of_their_own() -> None:
    pytest.importorskip("peft")
    made = session(replace(OPTIONS, lora=LoraOptions(rank=2)), with_moments())
    assert made.trainee.trainable
    assert all("lora" in name for name in made.trainee.trainable)
    assert read_moments(made.optimizer, made.trainee.trainable).updates == 0
    merged = made.trainee.merged()
    assert len(merged) == 2 * 7, "every linear layer but the head, which is tied"
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, tiny_graph().parameters()[name], msg=f"{name} changed before any step")


def test_a_teacher_is_there_only_where_there_is_something_to_be_learned_from_it() -> None:
    assert session(teacher=tiny_graph()).teacher is None
    assert session(replace(OPTIONS, distill=0.5)).teacher is None
    assert session(replace(OPTIONS, distill=0.5), teacher=tiny_graph()).teacher is not None


def test_an_earlier_training_of_this_process_does_not_bind_the_next() -> None:
    for precision, wanted in (("bf16", "bf16"), ("none", "no"), ("bf16", "bf16")):
        made = make_accelerator(replace(OPTIONS, precision=precision))  # type: ignore[arg-type]
        assert (made.mixed_precision, made.device.type, made.num_processes) == (wanted, "cpu", 1)
