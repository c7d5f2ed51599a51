"""The head of every family that has logits: behind the body it gives what the whole graph gives."""

import pytest
import torch

from graphprune.ir.graph import Graph
from graphprune.running.inputs import decoder_inputs
from graphprune.training.objective.head import split_head
from tests.support.families import families, graph
from tests.support.tiny_llama import ids, tiny_graph
from tests.support.zoo import DECODERS


@pytest.mark.parametrize("name", families(DECODERS))
def test_body_and_head_are_the_model(name: str) -> None:
    whole = graph(name)
    split = split_head(whole)
    assert split is not None, f"the head of {name} was not found"
    inputs = decoder_inputs(whole, torch.arange(14).view(2, 7) % 16)
    with torch.no_grad():
        logits = whole(*inputs)[whole.outputs.index("logits")]
        (hidden,) = split.body(*inputs)
        found = split.head(hidden.flatten(0, 1))
    assert hidden.shape[-1] < logits.shape[-1]
    torch.testing.assert_close(found, logits.flatten(0, 1), rtol=1e-5, atol=1e-5)


def test_parameters_are_shared_with_the_graph_and_the_tied_one_is_there_once() -> None:
    whole = tiny_graph()
    split = split_head(whole)
    assert split is not None
    known = {id(each) for each in whole.module.parameters()}
    assert {id(each) for each in split.head.trained()} <= known
    assert len(split.head.trained()) == 1


def test_the_source_stays_as_it_is() -> None:
    whole: Graph = tiny_graph()
    before = whole(*decoder_inputs(whole, ids(2, 7)))
    split_head(whole)
    assert all(torch.equal(a, b) for a, b in zip(before, whole(*decoder_inputs(whole, ids(2, 7))), strict=True))
