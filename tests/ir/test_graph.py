"""Graphs: forks are apart, and what is found of a graph is found once and forgotten with its nodes."""

from dataclasses import replace

import torch

from graphprune.ir.graph import Graph
from tests.support.tiny_llama import tiny_graph


def count_nodes(graph: Graph) -> list[int]:
    return [len(graph.nodes)]


def test_what_is_found_of_a_graph_is_found_once() -> None:
    graph = tiny_graph()
    found = graph.derive(count_nodes)
    assert graph.remember("x", 1).note("said").derive(count_nodes) is found
    assert graph.fork().derive(count_nodes) is not found
    assert replace(graph, outputs=tuple(f"{name}.again" for name in graph.outputs)).derive(count_nodes) is not found


def test_what_was_found_is_forgotten_when_the_nodes_change() -> None:
    fork = tiny_graph().fork()
    before = fork.derive(count_nodes)
    result = next(iter(fork.results.values()))
    with fork.module.graph.inserting_after(result):
        doubled = fork.module.graph.call_function(torch.ops.aten.mul.Tensor, (result, 2))
    fork.module.graph.output_node().args = ((doubled,),)
    fork.module.recompile()
    assert fork.derive(count_nodes) == [before[0] + 1]


def test_notes_are_kept_once_and_in_order() -> None:
    assert tiny_graph().note("a", "b").note("a", "c").notes == ("a", "b", "c")
