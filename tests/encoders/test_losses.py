"""The loss of similarity: its value, its gradient's second moment, and scores by it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from graphprune.encoders.embeddings import Embedding, require_embeddings
from graphprune.encoders.examples import Wanted, prepare_passages
from graphprune.encoders.losses import Similarity, with_aims
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.passes.importance.taylor import Taylor
from graphprune.pruning.interfaces import view
from graphprune.running.loss import RowMean, batch_loss
from tests.support.tiny_encoder import write_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def graph(folder: Path) -> Graph:
    return capture(folder, dtype=torch.float32)


def test_the_value_is_one_minus_the_cosine_and_zero_at_the_source(graph: Graph, folder: Path) -> None:
    examples = prepare_passages(graph, Wanted(str(folder / "text.txt"), 12, 16))
    batch = examples.batches[0]
    with torch.no_grad():
        assert float(batch_loss(graph, batch, examples.loss)) == pytest.approx(0.0, abs=1e-6)
        changed = graph.with_tensors(
            {name: torch.nn.Parameter(p * 1.3 + 0.05) for name, p in graph.parameters().items() if "query" in name}
        )
        states = [g(*(batch[name] for name in g.inputs))[0].mean(1) for g in (graph, changed)]
        wanted = (1 - functional.cosine_similarity(*states)).mean()
        assert float(wanted) > 1e-4
        assert float(batch_loss(changed, batch, examples.loss)) == pytest.approx(float(wanted), abs=1e-6)


def test_the_second_moment_of_its_gradient_is_the_curvature_of_the_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    x = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    embedding = (Embedding("out", 0),)
    aim = functional.normalize(x @ weight.T, dim=-1)

    def gradient(draw: Tensor) -> Tensor:
        own = weight.clone().requires_grad_()
        loss = Similarity(embedding)((x @ own.T,), {"aim.out": aim, "draw.out": draw[None]})
        assert float(loss.detach()) == pytest.approx(0.0, abs=1e-12)
        (found,) = torch.autograd.grad(loss, own)
        return found.flatten()

    # Directions of unit variance in place of draws: their sum of squares is the second moment exactly.
    found = sum(torch.outer(g, g) for g in map(gradient, torch.eye(4, dtype=torch.float64)))

    def distance(flat: Tensor) -> Tensor:
        return 1 - (functional.normalize(x @ flat.view(4, 3).T, dim=-1) * aim).sum()

    wanted = torch.autograd.functional.hessian(distance, weight.flatten())  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, wanted)


def test_draws_are_of_the_seed_and_as_long_as_the_embedding(graph: Graph, folder: Path) -> None:
    plain = [{name: b[name] for name in graph.inputs} for b in prepare(graph, folder)]
    first, again, other = (list(with_aims(graph, require_embeddings(graph), plain, seed)) for seed in (1, 1, 2))
    key = "draw.last_hidden_state"
    assert all(torch.equal(a[key], b[key]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][key], other[0][key])
    draws = torch.cat([batch[key] for batch in first])
    assert float(draws.square().sum(-1).mean()) == pytest.approx(1.0, rel=0.1)


def prepare(graph: Graph, folder: Path) -> tuple[dict[str, Tensor], ...]:
    return tuple(map(dict, prepare_passages(graph, Wanted(str(folder / "text.txt"), 37, 16)).batches))


def test_taps_and_gradients_of_single_samples_give_the_same_scores(graph: Graph, folder: Path) -> None:
    batches, loss = prepare(graph, folder), RowMean(Similarity(require_embeddings(graph)))
    scores = [Taylor().score(view(graph, None, batches, each)) for each in (loss, loss.of)]
    assert scores[0].keys() == scores[1].keys()
    for id, values in scores[0].items():
        torch.testing.assert_close(values, scores[1][id], rtol=1e-3, atol=1e-7)
        assert bool((values > 0).any())  # tokens that the text has not stay at zero
