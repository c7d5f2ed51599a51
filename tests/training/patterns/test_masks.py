"""Masks: the largest of each group or matrix, and a product whose gradient goes through what is masked."""

import torch

from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.pruning.sparsity.held import multiplied
from graphprune.running.inputs import decoder_inputs
from graphprune.training.patterns.masks import changed, kept_part, largest
from graphprune.weights.patterns import parse_pattern
from tests.support.families import graph


def test_the_largest_of_each_group_are_kept_whichever_way_a_matrix_lies() -> None:
    source = graph("gpt2")
    calls = find_linear_calls(source)[:3]
    assert any(call.transposed for call in calls)
    weights = source.parameters()
    for name, kept in largest(calls, weights, parse_pattern("2:4")).items():
        sizes = weights[name].detach().abs().T.unflatten(1, (-1, 4))
        order = sizes.sort(-1, descending=True).values
        assert torch.equal(kept.T.unflatten(1, (-1, 4)), sizes >= order[..., 1:2])
    half = largest(calls, weights, parse_pattern("50%"))
    assert all(int(kept.sum()) == kept.numel() // 2 for kept in half.values())


def test_all_of_a_weight_gets_a_gradient_and_the_product_has_exact_zeros() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 8, generator=draw).requires_grad_()
    kept, x = torch.rand(3, 8, generator=draw) < 0.5, torch.randn(5, 8, generator=draw)
    made = kept_part(weight, kept)
    assert torch.equal(made, weight * kept)
    (x @ made.T).square().sum().backward()
    assert weight.grad is not None
    by_hand = 2 * (x @ (weight * kept).detach().T).T @ x
    torch.testing.assert_close(weight.grad, by_hand)
    assert bool(weight.grad[~kept].any())


def test_a_graph_runs_what_is_kept_and_shares_its_masks() -> None:
    source = graph("llama")
    calls = find_linear_calls(source)[:4]
    kept = largest(calls, source.parameters(), parse_pattern("50%"))
    running = multiplied(source, kept, kept_part)
    zeros = {name: torch.nn.Parameter(source.parameters()[name] * mask) for name, mask in kept.items()}
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        one, other = running(*decoder_inputs(running, ids)), source.with_tensors(zeros)(*decoder_inputs(source, ids))
        assert torch.equal(one[0], other[0])
        for mask in kept.values():
            mask.fill_(True)
        assert torch.equal(running(*decoder_inputs(running, ids))[0], source(*decoder_inputs(source, ids))[0])


def test_what_changed_is_a_share_of_all_entries() -> None:
    one = {"a": torch.tensor([True, False]), "b": torch.tensor([True, True, False, False])}
    other = {"a": torch.tensor([False, True]), "b": one["b"]}
    assert changed(one, other) == 2 / 6
