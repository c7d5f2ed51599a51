"""Patterns: exact counts, ties by place, what a kind says, and zeros that are checked."""

import pytest
import torch
from torch import Tensor

from graphprune.errors import InvariantError, UsageError
from graphprune.weights.patterns import (
    Grouped,
    Share,
    check_zeros,
    groups_along,
    kept_by_zeros,
    kept_entries,
    only_patterns,
    parse_pattern,
    without_patterns,
)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("text", "pattern"), [("50%", Share(0.5)), ("0.3", Share(0.3)), ("2:4", Grouped(2, 4))])
def test_a_pattern_is_read_and_printed(text: str, pattern: Share | Grouped) -> None:
    assert parse_pattern(text) == pattern
    assert parse_pattern(str(pattern)) == pattern


@pytest.mark.parametrize("text", ["0", "100%", "half", "4:2", "4:4", "0:4", "-0.5", "2:4:8", ""])
def test_what_is_no_pattern_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="a pattern is a share of zeros such as 50%, or a part of each group"):
        parse_pattern(text)


def test_a_share_of_zeros_is_exact_also_where_scores_are_equal() -> None:
    for scores in (draw(7, 11), torch.zeros(7, 11), draw(7, 11).round()):
        for zeros in (0.1, 0.5, 0.77):
            assert int((~Share(zeros).keep(scores)).sum()) == round(zeros * 77)
            assert ((~Share(zeros, "row").keep(scores)).sum(1) == round(zeros * 11)).all()
    assert torch.equal(Share(0.5).keep(torch.zeros(1, 4)), torch.tensor([[True, True, False, False]]))


@pytest.mark.parametrize("pattern", [Grouped(2, 4), Grouped(1, 4), Grouped(4, 8)])
def test_groups_keep_the_largest_and_the_first_of_equal_ones(pattern: Grouped) -> None:
    scores = draw(5, 16)
    kept = pattern.keep(scores)
    groups = scores.view(5, -1, pattern.size)
    best = torch.argsort(groups, descending=True, stable=True)[..., : pattern.most]
    assert torch.equal(kept.view_as(groups), torch.zeros_like(groups).scatter(2, best, 1.0).bool())
    even = pattern.keep(torch.zeros(1, pattern.size))[0]
    assert even.tolist() == [i < pattern.most for i in range(pattern.size)]


def test_kinds_of_companions_say_their_pattern() -> None:
    weight = draw(4, 8)
    kind = Grouped(2, 4).kind(1)
    assert groups_along(kind) == (Grouped(2, 4), 1)
    assert groups_along(Share(0.5).kind(0)) is None
    companions = {kind: {"w": kept_by_zeros(weight)}, "exp_avg": {"w": weight}}
    assert list(kept_entries(companions)) == ["w"]
    assert list(without_patterns(companions)) == ["exp_avg"]
    assert list(only_patterns(companions)) == [kind]


def test_a_weight_that_is_not_zero_where_it_should_is_named() -> None:
    pattern = Grouped(2, 4)
    weight = draw(4, 8)
    kept = pattern.keep(weight.abs())
    check_zeros({"w": weight * kept}, {pattern.kind(1): {"w": kept}})
    with pytest.raises(InvariantError, match="w is not zero everywhere"):
        check_zeros({"w": weight}, {pattern.kind(1): {"w": kept}})
    with pytest.raises(InvariantError, match="w keeps more than 2:4"):
        check_zeros({"w": weight}, {pattern.kind(1): {"w": torch.ones_like(kept)}})
