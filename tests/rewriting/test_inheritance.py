"""Inheritance: a narrower heir is the cut, a wider one knows what was known, and it learns sooner than from nothing."""

import copy
import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from graphprune.analysis.analyse import analyze
from graphprune.errors import PlanError
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.ir.verification import verify
from graphprune.rewriting.apply import apply
from graphprune.rewriting.inheritance import inherit, inheritance
from graphprune.running.inputs import decoder_inputs
from graphprune.running.loss import next_token_loss
from graphprune.training.options import TrainOptions
from graphprune.training.train import train
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import CONFIG, tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=100, rows=4, lr=1e-2, device="cpu")


@functools.cache
def heir(**changes: Any) -> Graph:
    """A model of the same kind with random weights."""
    config = copy.deepcopy(CONFIG)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(1)
    model: Any = transformers.LlamaForCausalLM(config).eval()
    return capture(model)


def logits(graph: Graph, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return graph(*decoder_inputs(graph, ids))[0]


def test_a_narrower_heir_is_the_cut_of_what_matters_most() -> None:
    source, small = tiny_graph(), heir(intermediate_size=16, num_key_value_heads=4)
    channels = [group.id for group in analyze(source).groups if group.kind == "mlp"]
    scores = {id: torch.rand(24, generator=torch.Generator().manual_seed(0)) for id in channels[:1]}
    keep = {
        channels[0]: tuple(sorted(scores[channels[0]].topk(16).indices.tolist())),
        channels[1]: tuple(range(16)),
    }
    made, cut = inherit(source, small, scores), apply(source, Plan(keep))
    verify(made)
    assert made.parameters().keys() == cut.parameters().keys()
    assert all(torch.equal(tensor, cut.tensors()[name]) for name, tensor in made.tensors().items())
    assert inheritance(analyze(source), analyze(small), scores, 0).keep == keep
    ids = Rows().rows(0, 2)[0]
    assert torch.equal(logits(made, ids), logits(cut, ids))


def test_an_heir_with_more_words_and_channels_keeps_the_logits_of_the_old_ones() -> None:
    source, large = tiny_graph(), heir(vocab_size=70, intermediate_size=32)
    made = inherit(source, large)
    ids = Rows().rows(0, 2)[0]
    torch.testing.assert_close(logits(made, ids)[..., :64], logits(source, ids), atol=1e-5, rtol=1e-5)
    assert logits(made, ids).shape[-1] == 70
    assert not torch.equal(made.tensors()["model.norm.weight"], large.tensors()["model.norm.weight"])


def test_a_student_reaches_a_loss_in_half_of_the_steps_that_random_weights_take() -> None:
    text = held_out().view(-1, 12)
    teacher = train(tiny_graph(), OPTIONS, Rows()).graph
    small = heir(intermediate_size=16, num_key_value_heads=4)
    weights = {g.id: teacher.tensors()[g.slots[0].name].norm(dim=1) for g in analyze(teacher).groups if g.kind == "mlp"}
    student = train(inherit(teacher, small, weights), replace(OPTIONS, steps=15), Rows()).graph
    fresh = train(small, replace(OPTIONS, steps=30), Rows()).graph
    assert next_token_loss(student, text) < next_token_loss(fresh, text)


def test_models_that_differ_in_more_than_widths_are_refused() -> None:
    with pytest.raises(PlanError, match="is a group of one of the two models alone"):
        inherit(tiny_graph(), heir(num_hidden_layers=1))
    with pytest.raises(PlanError, match="no channels can be appended to"):
        inherit(heir(hidden_size=32, intermediate_size=16, num_key_value_heads=4), heir(hidden_size=48))
