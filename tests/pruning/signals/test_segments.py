"""Gradients through segments are those of one backward through the whole graph, and memory is one segment's."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.analysis.layers import find_layers
from graphprune.errors import DataError
from graphprune.ir.graph import Graph
from graphprune.pruning.signals import segments
from graphprune.pruning.signals.gradients import backward, with_leaves
from graphprune.pruning.signals.segments import Listener, Segmented, split_graph
from graphprune.weights.shelf import shelve
from tests.support.families import families, wide

NAMES = ["llama", "gpt2", "gemma2", "falcon", "mixtral"]


def batches() -> list[Tensor]:
    return list(torch.randint(61, (4, 3, 9), generator=torch.Generator().manual_seed(0)))


def ends_of(graph: Graph) -> list[str]:
    return [layer[-1].add for layer in find_layers(analyze(graph))]


@pytest.mark.parametrize("name", families(NAMES))
def test_every_gradient_is_that_of_the_whole(name: str) -> None:
    graph = wide(name).graph
    model, leaves = with_leaves(graph, graph.parameters())
    whole: list[dict[str, Tensor]] = []
    for batch in batches():
        whole.append({})
        backward(model, leaves, batch, None, lambda key, found: whole[-1].__setitem__(key, found.clone()))
    found: dict[tuple[int, str], Tensor] = {}
    settled: list[str] = []
    listener = Listener(
        leaf=lambda place, key, each: found.__setitem__((place, key), each), settled=lambda names: settled.extend(names)
    )
    Segmented(model, leaves, ends_of(graph)).backward(batches(), listener)
    assert found.keys() == {(place, key) for place, each in enumerate(whole) for key in each}
    assert len(settled) == len(set(settled))
    assert {key for _, key in found} <= set(settled)
    for (place, key), gradient in found.items():
        torch.testing.assert_close(gradient, whole[place][key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", families(["llama", "mixtral"]))
def test_what_waits_on_the_disk_changes_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = wide(name).graph
    model, leaves = with_leaves(graph, graph.parameters())
    found: list[dict[tuple[int, str], Tensor]] = []
    shelved: list[Path] = []
    monkeypatch.setattr(segments, "is_large", lambda value: value.nbytes > 0)
    monkeypatch.setattr(segments, "shelve", lambda value, folder: (shelved.append(folder), shelve(value, folder))[1])
    for shelf in (None, tmp_path):
        found.append({})
        listener = Listener(leaf=lambda place, key, each: found[-1].__setitem__((place, key), each.clone()))
        Segmented(model, leaves, ends_of(graph), shelf=shelf).backward(batches(), listener)
    assert len(shelved) >= 4 * len(ends_of(graph))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(each, found[1][key]) for key, each in found[0].items())


@pytest.mark.parametrize("name", families(["llama", "gpt2"]))
def test_a_node_that_is_watched_has_the_value_and_gradient_of_the_whole(name: str) -> None:
    graph = wide(name).graph
    ends = ends_of(graph)
    inner = [node.name for node in graph.nodes if node.name in ends or "silu" in node.name or "gelu" in node.name]
    seen: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
    watching = Listener(node=lambda place, key, value, gradient: seen.__setitem__((place, key), (value, gradient)))
    Segmented(graph, {}, ends, watched=frozenset(inner)).backward(batches(), watching)
    assert seen.keys() == set(itertools.product(range(4), inner))
    step = 1e-6
    for (place, key), (value, gradient) in list(seen.items())[:6]:
        way = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=value.dtype)
        rise = [loss_with(graph, batches()[place], key, sign * step * way) for sign in (1, -1)]
        torch.testing.assert_close((rise[0] - rise[1]) / (2 * step), (gradient * way).sum(), rtol=1e-5, atol=1e-8)


def loss_with(graph: Graph, batch: Tensor, key: str, change: Tensor) -> Tensor:
    """The loss where the value of a node is changed."""
    from graphprune.running.inputs import graph_inputs
    from graphprune.running.loss import output_loss
    from graphprune.running.stepper import Stepper

    named = {node.name: node for node in graph.nodes}
    results = frozenset(node.name for node in graph.returned)
    run = Stepper(graph, [graph_inputs(graph, batch)], results)
    with torch.no_grad():
        run.advance(named[key])
        run.put(named[key], [run.value(named[key])[0] + change])
        run.advance(graph.nodes[-1])
        return output_loss(graph, tuple(run.value(node)[0] for node in graph.returned), batch)


@pytest.mark.parametrize("name", families(["llama"]))
def test_a_loss_of_all_outputs_is_taken_where_one_is_given(name: str) -> None:
    graph = wide(name).graph
    model, leaves = with_leaves(graph, graph.parameters())
    ids = batches()[0]

    def loss(values: tuple[Tensor, ...], batch: object) -> Tensor:
        return sum((value.square().mean() for value in values if value.is_floating_point()), torch.zeros(()))

    whole: dict[str, Tensor] = {}
    backward(model, leaves, ids, loss, lambda key, found: whole.__setitem__(key, found.clone()))
    found: dict[str, Tensor] = {}
    listener = Listener(leaf=lambda _, key, each: found.__setitem__(key, each))
    Segmented(model, leaves, ends_of(graph), loss).backward([ids], listener)
    assert found.keys() == whole.keys()
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, whole[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", families(["llama", "gpt2"]))
def test_leaves_of_several_segments_are_known(name: str) -> None:
    graph = wide(name).graph
    model, leaves = with_leaves(graph, graph.parameters())
    tied = {key for key in leaves if "wte" in key} if name == "gpt2" else set()
    assert Segmented(model, leaves, ends_of(graph)).shared() == tied
    assert Segmented(model, leaves, []).shared() == set()


@pytest.mark.parametrize("name", families(["llama"]))
def test_segments_are_the_graph_in_order(name: str) -> None:
    graph = wide(name).graph
    ends = ends_of(graph)
    parts = split_graph(graph, ends)
    assert len(parts) == len(ends) + 1
    assert [part.nodes[-1].name for part in parts[:-1]] == ends
    for part, following in itertools.pairwise(parts):
        assert set(following.entering) & set(part.leaving)


@pytest.mark.parametrize("name", families(["llama"]))
def test_the_layer_that_comes_next_is_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the way back the weights of each layer are read from the disk while the one behind it is computed with."""
    graph = wide(name).graph
    model, leaves = with_leaves(graph, graph.parameters())
    names = {id(tensor): key for key, tensor in model.tensors().items()}
    asked: list[set[str]] = []
    monkeypatch.setattr(segments, "look_ahead", lambda found: asked.append({names[id(each)] for each in found}))
    Segmented(model, leaves, ends_of(graph)).backward(batches(), Listener())
    layers = len(ends_of(graph))
    assert len(asked) == layers
    for layer, found in zip(reversed(range(layers)), asked, strict=True):
        own = {key for key in names.values() if f".layers.{layer}." in key}
        assert own <= found
        assert not any(".layers." in key for key in found - own)


@pytest.mark.parametrize("name", families(["llama"]))
def test_a_loss_that_is_not_finite_is_told(name: str) -> None:
    graph = wide(name).graph
    tensors = {n: torch.nn.Parameter(t.detach() * float("inf")) for n, t in graph.parameters().items() if "norm" in n}
    broken, leaves = with_leaves(graph.with_tensors(tensors), graph.parameters())
    with pytest.raises(DataError, match="the loss on the calibration data is nan"):
        Segmented(broken, leaves, ends_of(graph)).backward(batches(), Listener())
