"""Chunks have the sums and the gradients of the whole, and never make more logits than they may."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from graphprune.training.objective import chunks
from graphprune.training.objective.chunks import Sums, chunked_sums

TOKENS, WIDTH, WORDS = 23, 5, 11


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Work:
    """Sums through a head, which notes how many tokens it was given at a time."""

    def __init__(self) -> None:
        self.weight, self.bias = draw(WORDS, WIDTH, seed=1).requires_grad_(), draw(WORDS, seed=2).requires_grad_()
        self.targets = torch.arange(TOKENS) % WORDS
        self.seen: list[int] = []

    def __call__(self, features: Tensor, part: slice) -> Sums:
        self.seen.append(len(features))
        loss = functional.cross_entropy(
            functional.linear(features, self.weight, self.bias), self.targets[part], reduction="sum"
        )
        return loss, loss.detach(), torch.zeros_like(loss)


@pytest.fixture(params=[1, 4, 23, 100])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(chunks, "_LARGEST_CHUNK", request.param * WORDS)
    return int(request.param)


def test_sums_and_gradients_are_those_of_the_whole(size: int) -> None:
    work, features = Work(), draw(TOKENS, WIDTH).requires_grad_()
    loss = chunked_sums(work, features, (work.weight, work.bias), WORDS)[0]
    (3 * loss).backward()
    assert max(work.seen) <= size
    assert sum(work.seen) == TOKENS
    whole, given = Work(), draw(TOKENS, WIDTH).requires_grad_()
    expected = whole(given, slice(None))[0]
    (3 * expected).backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)  # the sum itself is kept in float32
    for found, right in ((features, given), (work.weight, whole.weight), (work.bias, whole.bias)):
        torch.testing.assert_close(found.grad, right.grad, rtol=1e-12, atol=1e-12)


def test_what_is_frozen_has_no_gradient(size: int) -> None:
    work, features = Work(), draw(TOKENS, WIDTH).requires_grad_()
    work.bias.requires_grad_(False)
    chunked_sums(work, features, (work.weight, work.bias), WORDS)[0].backward()
    assert work.bias.grad is None
    assert work.weight.grad is not None
    with torch.no_grad():
        assert not chunked_sums(work, features, (work.weight, work.bias), WORDS)[0].requires_grad
