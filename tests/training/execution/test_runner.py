"""A model that computes values again in backward gives the same bits, and holds less."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from graphprune.ir.graph import Graph
from graphprune.running.forms.causal import causal_form
from graphprune.running.inputs import decoder_inputs
from graphprune.training.execution.casts import with_casts
from graphprune.training.execution.held import Held, Saved
from graphprune.training.execution.recomputed import Checkpoint, recomputed
from graphprune.training.execution.runner import Checkpointed
from tests.support import families
from tests.support.tiny_llama import ids, tiny_graph

MODES: tuple[Checkpoint, ...] = ("off", "selective", "full")
modes = pytest.mark.parametrize("mode", MODES[1:])


def trained(graph: Graph) -> Graph:
    own = {n: torch.nn.Parameter(p.detach().clone()) for n, p in graph.parameters().items()}
    return causal_form(graph.with_tensors(own), 7)


def results(graph: Graph, module: Any) -> list[Tensor | None]:
    """The logits, and the gradient of every parameter."""
    logits = module(*decoder_inputs(graph, ids(2, 7) % 16))[graph.outputs.index("logits")]
    found = torch.autograd.grad(logits.float().square().sum(), list(graph.parameters().values()), allow_unused=True)
    return [logits.detach(), *found]


def same(one: list[Tensor | None], other: list[Tensor | None]) -> bool:
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads add up the gradients of rows picked by index (experts) in the order that they come in."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@modes
@pytest.mark.parametrize("name", families.families(["llama", "gpt2", "gemma2", "falcon", "mixtral"]))
def test_outputs_and_gradients_are_the_same_to_the_last_bit(name: str, mode: Checkpoint) -> None:
    graph = trained(families.graph(name))
    names = recomputed(graph, mode)
    assert names
    assert same(results(graph, Checkpointed(graph.module, names)), results(graph, graph.module))


@modes
@pytest.mark.xdist_group("tiny_llama")
def test_under_autocast_too(mode: Checkpoint) -> None:
    graph = trained(tiny_graph())
    cast = with_casts(graph, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = results(graph, graph.module)
    with torch.autocast("cpu", torch.bfloat16):
        logits = Checkpointed(cast.module, recomputed(cast, mode))(*decoder_inputs(graph, ids(2, 7) % 16))[0]
    # Backward runs where autocast is off, as it does in a training.
    found = torch.autograd.grad(logits.float().square().sum(), list(graph.parameters().values()))
    assert same([logits.detach(), *found], wanted)


def held_bytes(mode: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> int:
    """What one forward holds for backward, each memory once, without parameters."""
    graph, saved, held = trained(tiny_graph()), list[Saved](), list[Held]()
    pack = Held.pack

    def watched(self: Held, tensor: Tensor) -> Saved:
        saved.append(pack(self, tensor))
        held.append(self)
        return saved[-1]

    monkeypatch.setattr(Held, "pack", watched)
    output = Checkpointed(graph.module, recomputed(graph, mode))(*decoder_inputs(graph, ids(2, 7)))
    weights = {p.untyped_storage().data_ptr() for p in graph.tensors().values()}
    kept = [each.tensor for each in saved if each.tensor is not None]
    kept += [value for value in held[0].roots.values() if isinstance(value, Tensor)]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in kept}
    assert output[0].requires_grad
    return sum(size for address, size in storages.items() if address not in weights)


@pytest.mark.xdist_group("tiny_llama")
def test_each_way_holds_less_than_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    off, selective, full = (held_bytes(mode, monkeypatch) for mode in MODES)
    assert selective < 0.75 * off
    assert full < 0.6 * selective


@modes
@pytest.mark.xdist_group("tiny_llama")
def test_backward_may_run_twice_and_leaves_nothing_behind(mode: Checkpoint) -> None:
    graph = trained(tiny_graph())
    module = Checkpointed(graph.module, recomputed(graph, mode))
    parameters = list(graph.parameters().values())
    loss = module(*decoder_inputs(graph, ids(2, 7)))[0].square().sum()
    one = torch.autograd.grad(loss, parameters, retain_graph=True)
    other = torch.autograd.grad(loss, parameters)
    assert same(list(one), list(other))
    del loss
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is Held]


@pytest.mark.xdist_group("tiny_llama")
def test_without_gradients_it_is_the_module() -> None:
    graph = trained(tiny_graph())
    with torch.no_grad():
        inputs = decoder_inputs(graph, ids(2, 7))
        found = Checkpointed(graph.module, recomputed(graph, "full"))(*inputs)[0]
        assert torch.equal(found, graph.module(*inputs)[0])
        assert not found.requires_grad
