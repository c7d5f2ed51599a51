"""Gradients through segments are those of one backward through the whole graph, and memory is one segment's."""

import itertools

import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.analysis.layers import find_layers
from graphprune.errors import DataError
from graphprune.ir.graph import Graph
from graphprune.pruning.signals.gradients import backward, with_leaves
from graphprune.pruning.signals.segments import Segmented, small_batches, split_graph
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
    found: dict[str, list[Tensor]] = {}
    Segmented(model, leaves, ends_of(graph)).backward(
        batches(), lambda key, each: found.setdefault(key, []).append(each)
    )
    assert found.keys() == {key for each in whole for key in each}
    for key, gradients in found.items():
        for gradient, expected in zip(gradients, whole, strict=True):
            torch.testing.assert_close(gradient, expected[key], rtol=1e-9, atol=1e-12)


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
def test_a_loss_that_is_not_finite_is_told(name: str) -> None:
    graph = wide(name).graph
    tensors = {n: torch.nn.Parameter(t.detach() * float("inf")) for n, t in graph.parameters().items() if "norm" in n}
    broken, leaves = with_leaves(graph.with_tensors(tensors), graph.parameters())
    with pytest.raises(DataError, match="the loss on the calibration data is nan"):
        Segmented(broken, leaves, ends_of(graph)).backward(batches(), lambda key, each: None)


def test_rows_are_taken_few_at_a_time() -> None:
    parts = small_batches([torch.zeros(32, 64), torch.zeros(2, 1024)])
    assert [tuple(part.shape) for part in parts] == [(8, 64)] * 4 + [(1, 1024)] * 2
