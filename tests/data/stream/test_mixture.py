"""The mixture: exact counts at every row, any row by its number, weights that change from a row on."""

from collections import Counter

import numpy
import pytest
import torch

from graphprune.data.stream.mixture import Mixture, Segment, counted, decided
from graphprune.data.stream.packing import pack
from graphprune.data.stream.token_store import Tokens
from graphprune.errors import UsageError

WEIGHTS = [(0.5, 0.5), (0.7, 0.2, 0.1), (0.6, 0.3999, 0.0001), (0.15, 0.35, 0.05, 0.25, 0.2)]


def mixture(weights: tuple[float, ...] = (0.7, 0.2, 0.1), rows: int = 40) -> Mixture:
    """Domain d has tokens from 1000 d on, each once."""
    streams = []
    for domain in range(len(weights)):
        ids = numpy.arange(1000 * domain, 1000 * domain + 4 * rows, dtype=numpy.uint16)
        streams.append(pack(Tokens(ids, numpy.ones(len(ids), dtype=bool)), 4, domain, None, 1, "test"))
    return Mixture(tuple("abcde"[: len(weights)]), tuple(streams), (Segment(0, weights),))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_domain_has_its_share_within_a_row_at_every_row(weights: tuple[float, ...]) -> None:
    domains = numpy.concatenate([decided(weights, block).domains for block in range(3)])
    counts = numpy.zeros(len(weights))
    for row, domain in enumerate(domains, 1):
        counts[domain] += 1
        assert (abs(counts - numpy.array(weights) * row) < 1).all()
    for rows in (0, 1, 77, 4096, 5000, 8192):
        assert counted(weights, rows).tolist() == [int((domains[:rows] == d).sum()) for d in range(len(weights))]


def test_rows_do_not_depend_on_how_they_are_asked_for() -> None:
    whole = mixture().rows(0, 60)
    for start, count in ((0, 1), (7, 5), (13, 40), (59, 1)):
        part = mixture().rows(start, count)
        assert torch.equal(part[0], whole[0][start : start + count])
        assert torch.equal(part[1], whole[1][start : start + count])


def test_no_row_comes_twice_in_an_epoch_of_its_domain() -> None:
    made = mixture((0.5, 0.3, 0.2))
    ids = made.rows(0, 80)[0]
    seen = Counter(map(tuple, ids.tolist()))
    assert max(seen.values()) == 1
    domains = Counter(row[0] // 1000 for row in ids.tolist())
    assert domains == {0: 40, 1: 24, 2: 16} == dict(enumerate(made.counts(80)))


def test_weights_change_from_a_row_on_and_nothing_before_it() -> None:
    before, made = mixture(), mixture().reweighed(30, (0.1, 0.1, 0.8)).reweighed(50, (0.2, 0.6, 0.2))
    assert torch.equal(made.rows(0, 30)[0], before.rows(0, 30)[0])
    assert numpy.subtract(made.counts(50), made.counts(30)).tolist() == [2, 2, 16]
    assert numpy.subtract(made.counts(60), made.counts(50)).tolist() == [2, 6, 2]
    ids = made.rows(0, 60)[0]
    assert max(Counter(map(tuple, ids.tolist())).values()) == 1, "a domain goes on where it was"
    again = before.reweighed(40, (0.5, 0.3, 0.2)).reweighed(30, (0.1, 0.1, 0.8))
    assert [segment.start for segment in again.segments] == [0, 30], "what was to come is forgotten"


def test_a_mixture_is_told_by_its_domains_and_first_weights() -> None:
    assert mixture().fingerprint == mixture().fingerprint == mixture().reweighed(8, (0.2, 0.2, 0.6)).fingerprint
    assert mixture().fingerprint != mixture((0.6, 0.3, 0.1)).fingerprint
    assert (mixture().length, mixture().tokens_per_epoch) == (4, 3 * 160)


@pytest.mark.parametrize("weights", [(0.5, 0.4), (1.0, 0.0), (1.5, -0.5), (0.2, 0.3, 0.5)])
def test_weights_are_shares_of_the_domains_that_there_are(weights: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="2 domains have as many weights above 0, with a sum of 1"):
        mixture((0.5, 0.5)).reweighed(3, weights)
