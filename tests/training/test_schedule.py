"""Schedules against their closed forms, over every step and over stages."""

import math

import pytest

from graphprune.errors import UsageError
from graphprune.pipeline.token_shares import split_whole, stage_shares
from graphprune.training.schedule import learning_rate


def rates(total: int, **options: object) -> list[float]:
    return [learning_rate(step, total, 1.0, **options) for step in range(total)]  # type: ignore[arg-type]


def test_wsd_rises_stays_and_falls() -> None:
    found = rates(200, minimum=0.1)
    assert found[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert found[10:180] == [1.0] * 170
    assert found[180:] == pytest.approx([1 - 0.9 * (k + 1) / 20 for k in range(20)])
    assert found[-1] == pytest.approx(0.1)


def test_cosine_falls_from_the_end_of_the_warm_up() -> None:
    found = rates(100, shape="cosine", minimum=0.2, warmup=0.1)
    assert found[9] == 1.0
    assert found[10:] == pytest.approx([0.2 + 0.8 * (1 + math.cos(math.pi * (k + 1) / 90)) / 2 for k in range(90)])


def test_constant_never_falls() -> None:
    assert rates(40, shape="constant", minimum=0.0) == [0.5] + [1.0] * 39


@pytest.mark.parametrize("shape", ["wsd", "cosine", "constant"])
@pytest.mark.parametrize("total", [1, 2, 7, 19])
def test_short_runs_have_no_step_of_rate_zero(shape: str, total: int) -> None:
    found = rates(total, shape=shape, minimum=0.1)
    assert len(found) == total
    assert all(0.1 <= rate <= 1.0 for rate in found)


def test_nothing_but_warm_up_and_decay() -> None:
    assert rates(4, warmup=0.5, decay=0.9, minimum=0.0) == pytest.approx([0.5, 1.0, 0.5, 0.0])


def test_shares_are_those_of_the_paper() -> None:
    assert stage_shares(4, "linear") == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert stage_shares(4, "constant") == (0.25,) * 4
    assert stage_shares(2, "cosine") == pytest.approx([1 - math.sqrt(0.5), math.sqrt(0.5)])


def test_late_leaves_four_fifths_for_the_end() -> None:
    assert stage_shares(5, "late") == pytest.approx([0.05] * 4 + [0.8])
    assert stage_shares(1, "late") == (1.0,)


@pytest.mark.parametrize("kind", ["linear", "constant", "cosine", "late"])
@pytest.mark.parametrize(("total", "stages"), [(1000, 7), (3, 5), (12345, 11), (0, 3)])
def test_whole_numbers_add_up_and_are_off_by_less_than_one(kind: str, total: int, stages: int) -> None:
    shares = stage_shares(stages, kind)  # type: ignore[arg-type]
    parts = split_whole(total, shares)
    assert sum(parts) == total
    assert all(abs(part - total * share) <= 1 for part, share in zip(parts, shares, strict=True))
    assert math.fsum(shares) == pytest.approx(1)


def test_unknown_shares_and_no_stages_are_refused() -> None:
    with pytest.raises(UsageError, match="1 stage or more"):
        stage_shares(0)
    with pytest.raises(UsageError, match="linear, constant, cosine, late, not 'even'"):
        stage_shares(2, "even")  # type: ignore[arg-type]
