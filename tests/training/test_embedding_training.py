"""Training of embeddings: each term against a few lines, and what it makes of a pruned encoder, which has no logits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from graphprune.analysis.analyse import analyze
from graphprune.encoders.embeddings import find_embeddings, require_embeddings
from graphprune.encoders.examples import Wanted, prepare_passages
from graphprune.encoders.losses import make_loss, pair_loss
from graphprune.errors import TrainingError, UsageError
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from graphprune.training.embedding_terms import Seen, Terms, logits_of, similarity_loss, taught_loss
from graphprune.training.embedding_training import EmbeddingOptions, common_states, train_embeddings, with_states
from tests.support.families import graph as graph_of
from tests.support.tiny_encoder import write_encoder
from tests.support.tiny_pairs import random_pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def graph(folder: Path) -> Graph:
    return capture(folder, dtype=torch.float32)


def halved(graph: Graph) -> Graph:
    """Half of the channels of every MLP."""
    mlp = [group for group in analyze(graph).prunable() if group.kind == "mlp"]
    return apply(graph, Plan({group.id: tuple(range(group.units // 2)) for group in mlp}))


def seen(*embeddings: torch.Tensor, **states: torch.Tensor) -> Seen:
    return Seen({}, states, tuple(functional.normalize(each, dim=-1) for each in embeddings))


def test_the_terms_are_what_their_formulas_say() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, h, k = (torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(4))
    ours, theirs = seen(a, b, add=h), seen(b, a, add=k)
    feature = sum(float((x - y).square().mean()) for x, y in zip(ours.embeddings, theirs.embeddings, strict=True)) / 2
    hidden = float((h - k).square().mean()) / 2
    similarity = 0.0
    s, t = 20 * ours.embeddings[0] @ ours.embeddings[1].T, 20 * theirs.embeddings[0] @ theirs.embeddings[1].T
    for x, y in ((s, t), (s.T, t.T)):
        for row, aim in zip(x, y, strict=True):
            p = aim.softmax(0)
            similarity += float((p * (p.log() - row.softmax(0).log())).sum()) / 8
    assert float(similarity_loss(ours, theirs)) == pytest.approx(similarity)
    terms = Terms(similarity=2, feature=10, hidden=3)
    assert float(taught_loss(ours, theirs, terms)) == pytest.approx(2 * similarity + 10 * feature + 3 * hidden)
    assert float(taught_loss(ours, ours, Terms())) == 0.0


def test_a_text_is_not_compared_with_itself() -> None:
    texts = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    found, cosines = logits_of(seen(texts)), functional.cosine_similarity(texts[:, None], texts[None], dim=-1)
    assert found.shape == (3, 2)
    torch.testing.assert_close(found[1], 20 * cosines[1, [0, 2]])
    assert float(similarity_loss(seen(texts[:1]), seen(texts[:1]))) == 0.0


def test_states_are_those_behind_the_layers_that_both_have(graph: Graph) -> None:
    cut, layers = halved(graph), [b.id for b in analyze(graph).branches]
    assert len(common_states(cut, graph)) == 2
    shorter = apply(graph, Plan({}, tuple(layers[:2])))
    assert len(common_states(shorter, graph)) == 1
    wide = with_states(graph, cut)
    assert wide.outputs[: len(graph.outputs)] == graph.outputs
    batch = torch.randint(5, 30, (2, 6))
    inputs = [batch, torch.ones_like(batch), torch.zeros_like(batch)]
    assert torch.equal(wide(*inputs)[0], graph(*inputs)[0])


def test_a_pruned_encoder_comes_nearer_to_its_source_and_seeds_give_the_same(graph: Graph, folder: Path) -> None:
    cut = halved(graph)
    examples = prepare_passages(graph, Wanted(str(folder / "text.txt"), 20, 16))
    options = EmbeddingOptions(6000, 3e-3, schedule="cosine")
    told: list[int] = []
    found = train_embeddings(cut, graph, options, examples.epochs, examples.loss, lambda done, _: told.append(done))
    assert found.last < found.first / 2
    before, after = (examples.measure(graph, each).embeddings[0][1] for each in (cut, found.graph))
    assert after.cosine > before.cosine
    assert told == sorted(told)
    assert told[-1] == 6000
    short = replace(options, tokens=500)
    again = [train_embeddings(cut, graph, short, examples.epochs, examples.loss).graph.parameters() for _ in range(2)]
    assert all(torch.equal(value, again[1][name]) for name, value in again[0].items())
    assert not all(torch.equal(value, cut.parameters()[name]) for name, value in again[0].items())
    with pytest.raises(TrainingError, match="lower lr"):
        train_embeddings(cut, graph, replace(options, lr=1e12, clip=0.0), examples.epochs, examples.loss)


def test_pairs_are_a_term_of_their_own_and_something_must_be_learned(graph: Graph, folder: Path) -> None:
    clip = graph_of("clip")
    loss, batches = pair_loss(clip, find_embeddings(clip)), [random_pairs(clip, 8)]
    assert loss is not None
    assert pair_loss(graph, require_embeddings(graph)) is None
    nothing = Terms(similarity=0, feature=0, hidden=0)
    options = EmbeddingOptions(8 * 7 * 10, 3e-3, terms=nothing)
    found = train_embeddings(clip, clip, options, lambda _: batches, loss)  # type: ignore[arg-type, return-value]
    assert found.steps == 10
    assert found.last < found.first
    own = make_loss(graph, require_embeddings(graph), "auto")
    with pytest.raises(UsageError, match="learns nothing"):
        train_embeddings(graph, graph, options, lambda _: [], own)
