"""Domains: the formula of their weights, what lags gains, reports of each, and a kill that changes nothing."""

import math
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor

from graphprune.data.stream.mixture import Mixture, Segment
from graphprune.data.stream.packing import Stream, pack
from graphprune.data.stream.token_store import Tokens
from graphprune.errors import UsageError
from graphprune.training.learning.domains import Domains, Weighing, reweighed
from graphprune.training.options import TrainOptions
from graphprune.training.train import train
from tests.support.rows import Rows
from tests.support.tiny_llama import tiny_graph
from tests.training.test_train import equal, lines

pytestmark = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=12, rows=6, lr=1e-2, eval_every=4, keep="last", divergence=1e9, device="cpu")


def three(seed: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """One token for ever, which is soon known; drawn tokens, which nobody can know; an arithmetic, which lags."""
    drawn = torch.randint(64, (count,), generator=torch.Generator().manual_seed(seed))
    return torch.full((count,), 7), drawn, Rows(seed=seed).rows(0, count // 12)[0].flatten()


def stream_of(tokens: Tensor, seed: int) -> Stream:
    ids = tokens.numpy().astype(numpy.uint16)
    return pack(Tokens(ids, numpy.ones(len(ids), dtype=bool)), 12, seed, None, 1, "test")


def mixture() -> Mixture:
    streams = tuple(stream_of(tokens, seed) for seed, tokens in enumerate(three(0, 2400)))
    return Mixture(("known", "drawn", "lagging"), streams, (Segment(0, (1 / 3, 1 / 3, 1 / 3)),))


def domains(**changes: object) -> Domains:
    texts = three(1, 120)
    # What can be reached: nothing of a text that is known, a guess of a drawn one, little of an arithmetic.
    weighing = Weighing(reweigh=3, references=(3.0, math.log(64) + 0.5, 0.1), eta=0.2)
    return Domains(texts, replace(weighing, **changes))


def test_weights_are_the_formula_and_stay_above_the_floor() -> None:
    weights, losses, references = (0.5, 0.3, 0.2), (2.0, 1.0, 3.0), (1.5, 1.2, 1.0)
    powers = [0.5 * math.exp(2 * 0.5), 0.3, 0.2 * math.exp(2 * 2.0)]
    wanted = [(1 - 0.01) * each / sum(powers) + 0.01 / 3 for each in powers]
    assert reweighed(weights, losses, references, 2.0, 0.01) == pytest.approx(wanted)
    far = reweighed(weights, (0.0, 0.0, 500.0), references, 1.0, 1e-4)
    assert min(far) >= 1e-4 / 3 * (1 - 1e-9)
    assert sum(far) == pytest.approx(1)
    assert reweighed(weights, (0.0, 0.0, 0.0), references, 1.0, 0.0) == pytest.approx(weights), "all have arrived"


def test_the_lagging_domain_gains_and_the_others_lose(tmp_path: Path) -> None:
    trained = train(tiny_graph(), OPTIONS, mixture(), held_out=domains().texts[2], folder=tmp_path, domains=domains())
    course = [segment.weights for segment in trained.segments]
    assert [segment.start for segment in trained.segments] == [0, 18, 36, 54, 72]
    assert [w[2] for w in course] == sorted(w[2] for w in course)
    assert course[-1][2] > 0.5
    assert course[-1][0] < 1 / 3
    assert course[-1][1] < 1 / 3
    assert trained.domains.keys() == {"known", "drawn", "lagging"}
    rows = lines(tmp_path)
    assert [row["step"] for row in rows if "domains" in row] == [3, 4, 6, 8, 9, 12]
    assert rows[-1]["domains"] == trained.domains
    assert rows[-1]["weights"] == list(course[-1])


def test_a_killed_training_goes_on_with_the_weights_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, save_every=2, eval_every=0)
    wanted = train(tiny_graph(), options, mixture(), folder=tmp_path / "whole", domains=domains())

    class KilledError(Exception):
        pass

    rows = Mixture.rows

    def die(self: Mixture, start: int, count: int) -> tuple[Tensor, Tensor]:
        if start == 48:
            raise KilledError
        return rows(self, start, count)

    with monkeypatch.context() as patch:
        patch.setattr(Mixture, "rows", die)
        with pytest.raises(KilledError):
            train(tiny_graph(), options, mixture(), folder=tmp_path / "killed", domains=domains())
    found = train(tiny_graph(), options, mixture(), folder=tmp_path / "killed", domains=domains())
    assert equal(found.graph, wanted.graph)
    assert (found.segments, found.domains) == (wanted.segments, wanted.domains)
    with pytest.raises(UsageError, match=r"holds another training: domains.eta was 0.2, is now 0.5"):
        train(tiny_graph(), options, mixture(), folder=tmp_path / "killed", domains=domains(eta=0.5))


def test_texts_references_and_domains_are_as_many() -> None:
    with pytest.raises(UsageError, match="domains are those of a mixture"):
        train(tiny_graph(), OPTIONS, Rows(), domains=domains())
    with pytest.raises(UsageError, match="3 domains need as many references, one loss each in their order, not 2"):
        train(tiny_graph(), OPTIONS, mixture(), domains=domains(references=(1.0, 2.0)))
    few = replace(domains(), texts=domains().texts[:2])
    with pytest.raises(UsageError, match="3 domains need as many held-out texts, not 2"):
        train(tiny_graph(), OPTIONS, mixture(), domains=few)
