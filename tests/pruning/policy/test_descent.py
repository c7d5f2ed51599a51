"""A descent finds what matters, stays within the budget at every step, and goes on after a stop to the same."""

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch

from graphprune.analysis.cost import Polynomial
from graphprune.errors import DataError
from graphprune.pruning.policy.bundles import Bundles, Masks, Numbers, Run
from graphprune.pruning.policy.descent import Descent, Judged, descend
from graphprune.pruning.policy.spending import Spending
from graphprune.pruning.search.journal import Journal

PLAIN = Descent(60, 4, 0.04, "sqrt", "slopes", 5, relative=True, margin=0.02)
Seen = list[tuple[int, Numbers, float]]


def gates(count: int, limit: int, costs: tuple[int, ...] = (1,)) -> Spending:
    """So many gates, in candidates that cost differently."""
    parts = torch.arange(count).split(-(-count // len(costs)))
    owner = {f"g{number}": part for number, part in enumerate(parts)}
    runs = tuple(Run(slice(int(part[0]), int(part[-1]) + 1), 1) for part in parts)
    cost = Polynomial({(name,): each for name, each in zip(owner, costs, strict=True)})
    return Spending(Bundles(owner, numpy.ones(count), runs), cost, {n: len(o) for n, o in owner.items()}, limit)


def planted(effects: Numbers, noise: float, seed: int) -> Callable[[Masks, int], Numbers]:
    """The sum of the effects of what is gone, seen with noise."""

    def judge(masks: Masks, step: int) -> Numbers:
        chance = numpy.random.default_rng((seed, step, 9))
        return numpy.asarray((1.0 - masks) @ effects + noise * chance.standard_normal(len(masks)))

    return judge


def run(
    spent: Spending, judge: Callable[[Masks, int], Numbers], how: Descent, path: Path | None = None, seed: int = 0
) -> tuple[Numbers, int, Seen]:
    seen: Seen = []
    judged = Judged(judge, Journal(path), "planted")
    start = numpy.full(len(spent.bundles), 0.5)
    shares, lost = descend(start, spent, judged, how, seed, lambda *each: seen.append(each))
    return shares, lost, seen


def excess(effects: Numbers, shares: Numbers) -> float:
    """What the half that goes would have added, of all: 0.5 for a random half."""
    return float(effects[numpy.argsort(-shares, kind="stable")[len(shares) // 2 :]].sum() / effects.sum())


def test_of_256_planted_gates_the_half_that_goes_was_worth_little() -> None:
    effects = numpy.exp(1.6 * numpy.random.default_rng(0).standard_normal(256))
    effects /= effects.sum()
    how = Descent(3000, 4, 0.04, "sqrt", "slopes", 5, relative=True, margin=0.02)
    shares, lost, seen = run(gates(256, 128), planted(effects, 0.05, 0), how)
    assert excess(effects, shares) <= 0.12
    assert excess(effects, numpy.random.default_rng(1).random(256)) > 0.4
    assert (lost, len(seen)) == (0, 3000)


@pytest.mark.parametrize("form", ["sqrt", "exact", "natural"])
@pytest.mark.parametrize("baseline", ["slopes", "others", "moving"])
def test_shares_are_probabilities_within_the_budget_after_each_step(form: str, baseline: str) -> None:
    effects = numpy.random.default_rng(2).random(40)
    spent = gates(40, 150, (1, 5, 9))
    how = Descent(60, 3, 0.3, form, baseline, 5, relative=True, margin=0.02)  # type: ignore[arg-type]
    _, _, seen = run(spent, planted(effects, 0.3, 0), how)
    for _, shares, _ in seen:
        assert ((shares >= 0) & (shares <= 1)).all()
        assert spent.costs @ shares <= spent.limit
    assert len({shares.tobytes() for _, shares, _ in seen}) > 50


def test_what_is_worth_much_stays_and_what_is_worth_nothing_goes() -> None:
    effects = numpy.where(numpy.arange(12) < 6, 1.0, 0.0)
    shares, _, seen = run(gates(12, 6), planted(effects, 0.0, 0), Descent(150, 4, 0.1, "sqrt", "slopes", 5, True, 0.02))
    assert shares[:6].min() > 0.9 > 0.1 > shares[6:].max()
    assert seen[-1][2] < seen[0][2]


def test_a_stopped_descent_goes_on_to_the_same_and_judges_nothing_again(tmp_path: Path) -> None:
    effects, path, asked = numpy.random.default_rng(3).random(30), tmp_path / "log.jsonl", list[int]()

    def judge(masks: Masks, step: int) -> Numbers:
        asked.append(step)
        return planted(effects, 0.1, 0)(masks, step)

    whole, _, seen = run(gates(30, 15), judge, PLAIN, path)
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 60 * 4
    path.write_text("".join(lines[:102]) + '{"of": "plan')  # in the middle of step 25
    asked.clear()
    again, _, told = run(gates(30, 15), judge, PLAIN, path)
    assert again.tobytes() == whole.tobytes()
    assert asked == list(range(25, 60))
    assert path.read_text() == "".join(lines)
    assert [(step, shares.tobytes(), loss) for step, shares, loss in told] == [
        (step, shares.tobytes(), loss) for step, shares, loss in seen
    ]
    other, _, _ = run(gates(30, 15), planted(effects, 0.1, 0), PLAIN, seed=1)
    assert other.tobytes() != whole.tobytes()


def test_losses_that_are_not_finite_count_as_the_worst_of_their_step() -> None:
    effects = numpy.random.default_rng(4).random(20)
    plain = planted(effects, 0.0, 0)

    def judge(masks: Masks, step: int) -> Numbers:
        losses = plain(masks, step)
        losses[losses.argmax()] = numpy.inf if step % 2 else numpy.nan
        return losses

    shares, lost, _ = run(gates(20, 10), judge, PLAIN)
    assert lost == 60
    assert numpy.isfinite(shares).all()
    with pytest.raises(DataError, match="no mask of step 0 has a finite loss"):
        run(gates(20, 10), lambda masks, _: numpy.full(len(masks), numpy.nan), PLAIN)
