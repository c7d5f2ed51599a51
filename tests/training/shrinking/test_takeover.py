"""Takeover: the second-order formula is least squares on the inputs that stay, on the calls that can be changed."""

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.training.shrinking.takeover import find_readers, second_moment, take_over
from tests.support.families import graph as family
from tests.support.tiny_llama import tiny_graph

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(200, 10, generator=DRAW).double() @ torch.randn(10, 10, generator=DRAW).double()
W = torch.randn(6, 10, generator=DRAW).double()
GONE = torch.tensor([False, True, False, False, True, True, False, False, False, False])


@pytest.mark.parametrize("damping", [0.0, 0.01, 1.0])
def test_it_is_the_formula_of_the_optimal_brain_surgeon(damping: float) -> None:
    h = second_moment(X)
    inverse = torch.linalg.inv(h + damping * h.diagonal().mean() * torch.eye(10).double())
    gone, kept = GONE.nonzero().flatten(), (~GONE).nonzero().flatten()
    step = W[:, gone] @ torch.linalg.inv(inverse[gone][:, gone]) @ inverse[gone][:, kept]
    found = W.clone()
    take_over(found, h, GONE, ~GONE, damping)
    torch.testing.assert_close(found[:, kept], W[:, kept] - step, rtol=1e-9, atol=1e-9)
    assert torch.equal(found[:, gone], W[:, gone])


def test_without_damping_it_is_least_squares_on_what_stays() -> None:
    found = W.clone()
    take_over(found, second_moment(X), GONE, ~GONE, 0.0)
    wanted = torch.linalg.lstsq(X[:, ~GONE], X @ W.T).solution.T
    torch.testing.assert_close(found[:, ~GONE], wanted, rtol=1e-8, atol=1e-8)


def test_inputs_that_are_gone_already_take_no_part_and_never_read_ones_change_nothing() -> None:
    before = torch.zeros(10, dtype=torch.bool)
    before[0] = True
    found, masked = W.clone(), X.clone()
    masked[:, 0] = 0
    take_over(found, second_moment(masked), GONE, ~GONE & ~before, 0.01)
    assert torch.equal(found[:, 0], W[:, 0])
    assert not torch.equal(found[:, 2], W[:, 2])
    found = W.clone()
    take_over(found, torch.zeros(10, 10), GONE, ~GONE, 0.01)
    torch.testing.assert_close(found, W)


def test_the_error_of_the_output_is_less_than_without() -> None:
    found = W.clone()
    take_over(found, second_moment(X), GONE, ~GONE, 0.01)
    kept = X[:, ~GONE]
    errors = [float((X @ W.T - kept @ each[:, ~GONE].T).square().sum()) for each in (found, W)]
    assert errors[0] < 0.5 * errors[1]


def test_readers_are_calls_with_weights_of_their_own_and_the_inputs_that_units_lie_along() -> None:
    groups = analyze(tiny_graph())
    readers = find_readers(tiny_graph(), groups.prunable(frozenset({"mlp", "attention", "residual"})))
    layer = "model.layers.0."
    found = {r.call.weight: r for r in readers if r.call.weight.startswith(layer)}
    assert len(found) == 7
    assert len(readers) == 14, "the head is tied"
    assert found[f"{layer}self_attn.v_proj.weight"].source == f"{layer}self_attn.q_proj.weight"
    down = found[f"{layer}mlp.down_proj.weight"]
    (id,) = down.owners
    some = torch.zeros(24, dtype=torch.bool)
    some[[3, 5]] = True
    assert down.inputs({id: some}, False).nonzero().flatten().tolist() == [3, 5]
    assert down.inputs({id: ~some}, True).logical_not().nonzero().flatten().tolist() == [3, 5]


def test_matrices_that_lie_the_other_way_are_read_along_their_inputs() -> None:
    groups = analyze(family("gpt2")).prunable(frozenset({"mlp"}))
    readers = find_readers(family("gpt2"), groups)
    assert readers
    assert all(r.call.transposed and r.call.weight.endswith("c_proj.weight") for r in readers)
