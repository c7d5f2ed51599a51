"""Picked stacks: the same products and the same gradients as those of a weight picked for every row."""

import pytest
import torch

from graphprune.running.forms.picked import find_product, multiply_picked, picked_form
from graphprune.running.forms.scoring import scoring_form
from graphprune.running.inputs import decoder_inputs
from graphprune.running.perplexity import graph_logits
from tests.support.families import graph, wide


def test_rows_are_multiplied_by_what_was_picked_for_each() -> None:
    stack = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
    column = torch.randn(7, 3, 1, dtype=torch.float64, requires_grad=True)
    picks = torch.tensor([3, 0, 3, 1, 1, 0, 3])  # none picks the third
    made, wanted = multiply_picked(stack, picks, column), torch.bmm(stack[picks], column)
    torch.testing.assert_close(made, wanted)
    given = torch.randn_like(wanted)
    for one, other in zip(
        torch.autograd.grad(made, (stack, column), given),
        torch.autograd.grad(wanted, (stack, column), given),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.xdist_group("mixtral")
def test_a_mixture_computes_the_same_without_a_copy_of_weights_for_every_row() -> None:
    source = wide("mixtral").graph
    form = picked_form(source)
    assert sum(find_product(node) is not None for node in source.nodes) == 4
    assert not any(find_product(node) for node in form.nodes)
    ids = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for length in (1, 9):
            inputs = decoder_inputs(source, ids[:, :length])
            for one, other in zip(source(*inputs), form(*inputs), strict=True):
                torch.testing.assert_close(one, other)
        torch.testing.assert_close(graph_logits(source)(ids), source(*decoder_inputs(source, ids))[0])
        scored = scoring_form(source, 9)(*decoder_inputs(source, ids))[0]
        torch.testing.assert_close(scored, source(*decoder_inputs(source, ids))[0])


@pytest.mark.xdist_group("llama")
def test_what_picks_nothing_is_left_as_it_is() -> None:
    assert picked_form(graph("llama")) is graph("llama")
