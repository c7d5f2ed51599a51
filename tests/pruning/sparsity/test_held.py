"""Held: the graph computes the same, and what is trained keeps its zeros, in full, by adapters, and cut between."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.verification import verify
from graphprune.passes.transforms.sparsify import Sparsify
from graphprune.pipeline.passes import run_passes
from graphprune.pipeline.run_state import load_state, save_state
from graphprune.pruning.sparsity.held import held, with_zeros
from graphprune.running.inputs import decoder_inputs
from graphprune.training.adapters import adapted
from graphprune.training.options import LoraOptions, TrainOptions
from graphprune.training.train import train
from graphprune.weights.patterns import kept_entries
from tests.support.families import graph
from tests.support.rows import Rows
from tests.support.tiny_llama import ids, tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=5, rows=4, lr=1e-2, device="cpu")


def sparse(source: Graph, pattern: str = "2:4") -> Graph:
    return run_passes(source, [Sparsify(pattern=pattern, method="magnitude")])


def require_zeros(graph: Graph, like: Graph) -> None:
    own, before = graph.parameters(), kept_entries(like.companions)
    assert kept_entries(graph.companions).keys() == before.keys()
    for name, kept in before.items():
        assert not own[name][~kept].any()
        assert torch.equal(kept_entries(graph.companions)[name], kept)


def logits(graph: Graph, given: Tensor) -> Tensor:
    with torch.no_grad():
        return graph(*decoder_inputs(graph, given))[0]


def test_it_computes_the_same_and_gradients_of_zeros_are_zero() -> None:
    model = sparse(tiny_graph())
    masked = held(model)
    verify(masked)
    assert torch.equal(logits(masked, ids(2, 8)), logits(model, ids(2, 8)))
    assert masked.parameters().keys() == model.parameters().keys()
    masked(*decoder_inputs(masked, ids(2, 8)))[0].square().sum().backward()
    for name, kept in kept_entries(model.companions).items():
        gradient = model.parameters()[name].grad
        assert gradient is not None
        assert not gradient[~kept].any()
        assert gradient[kept].any()
        model.parameters()[name].grad = None
    plain = tiny_graph()
    assert held(plain) is plain
    wild = {name: torch.ones_like(w) for name, w in model.parameters().items()}
    assert all(torch.equal(with_zeros(wild, model)[n], k.float()) for n, k in kept_entries(model.companions).items())


@pytest.mark.parametrize("pattern", ["2:4", "30%"])
def test_training_keeps_zeros_also_with_moments_of_a_dense_training(pattern: str) -> None:
    dense = train(tiny_graph(), OPTIONS, Rows()).graph
    model = sparse(dense, pattern)
    trained = train(model, OPTIONS, Rows()).graph
    verify(trained)
    require_zeros(trained, model)
    changed = [n for n, w in trained.parameters().items() if not torch.equal(w, model.parameters()[n])]
    assert set(kept_entries(model.companions)) <= set(changed)


@pytest.mark.parametrize("name", ["tiny", "gpt2"])
def test_adapters_change_what_is_kept_alone_and_merge_to_what_was_trained(name: str) -> None:
    source = tiny_graph() if name == "tiny" else graph(name)
    model = sparse(source)
    options = replace(OPTIONS, lora=LoraOptions(rank=2, alpha=8.0, dropout=0.0))
    trainee = adapted(model, options.lora or LoraOptions(), 0)
    with torch.no_grad():
        for number, each in enumerate(trainee.trainable.values()):
            each.copy_(0.1 * torch.randn(each.shape, generator=torch.Generator().manual_seed(number)))
    merged = model.with_tensors({n: torch.nn.Parameter(w) for n, w in trainee.merged().items()})
    given = ids(2, 8) % 60
    assert torch.allclose(logits(trainee.graph, given), logits(merged, given), atol=1e-5)
    verify(merged)
    trained = train(model, options, Rows(vocabulary=60)).graph
    verify(trained)
    require_zeros(trained, model)
    assert not torch.equal(logits(trained, given), logits(model, given))


def test_tuning_in_4_bits_is_refused() -> None:
    options = replace(OPTIONS, lora=LoraOptions(rank=2, block=16))
    with pytest.raises(UsageError, match="lora_block of recover moves all weights of a block"):
        train(sparse(graph("llama")), options, Rows(vocabulary=60))


def test_a_run_that_goes_on_has_the_same_patterns(tmp_path: Path) -> None:
    model = sparse(tiny_graph())
    save_state(tmp_path, 0, model)
    found = load_state(tmp_path, tiny_graph())
    assert found is not None
    require_zeros(found[1], model)
    assert list(found[1].companions) == list(model.companions)
