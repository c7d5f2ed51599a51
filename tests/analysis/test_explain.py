"""Explanations: the operators between two coupled weight dimensions, and a plain no for those that are not."""

import pytest

from graphprune.analysis.analyse import analyze
from graphprune.analysis.explain import coupling_graph, explain
from graphprune.errors import UsageError
from tests.support.families import analysis, graph

pytestmark = pytest.mark.xdist_group("llama")
ATTENTION, MLP = "model.layers.0.self_attn.", "model.layers.0.mlp."


def test_query_and_output_projection_share_heads() -> None:
    text = explain(graph("llama"), f"{ATTENTION}q_proj.weight:0", f"{ATTENTION}o_proj.weight:1")
    first, *path = text.splitlines()
    assert first == (
        f"{ATTENTION}q_proj.weight:0 and {ATTENTION}o_proj.weight:1 share "
        f"{ATTENTION}q_proj.weight:0/attention, {ATTENTION}q_proj.weight:0/query"
    )
    operators = [line.split()[0] for line in path]
    assert operators[0] == "reshape"  # the rows of the projection become heads
    assert "scaled_dot_product_attention" in operators
    assert operators[-1] == "linear"
    assert all(line.startswith("  ") for line in path)
    assert any("self_attn" in line for line in path)


def test_gate_and_down_projection_meet_at_the_product() -> None:
    text = explain(graph("llama"), f"{MLP}gate_proj.weight:0", f"{MLP}down_proj.weight:1")
    assert f"share {MLP}gate_proj.weight:0" in text
    assert "linear" in text


UNRELATED = ("model.layers.1.mlp.up_proj.weight:0", f"{ATTENTION}o_proj.weight:1", "lm_head.weight:0")


@pytest.mark.parametrize("other", UNRELATED)
def test_unrelated_dimensions_are_not_coupled(other: str) -> None:
    text = explain(graph("llama"), f"{MLP}gate_proj.weight:0", other)
    assert text == f"{MLP}gate_proj.weight:0 and {other} are not coupled: no group has a slot in both"


def test_every_pair_of_slots_of_a_group_has_a_path() -> None:
    """The path is found for each slot of each group that may be cut, so that no coupling stays unexplained."""
    for group in analysis("llama").groups.prunable(frozenset({"attention", "mlp"})):
        first, *others = [s for s in group.slots if s.name in graph("llama").parameters()]
        for slot in others:
            text = explain(graph("llama"), f"{first.name}:{first.dim}", f"{slot.name}:{slot.dim}")
            assert len(text.splitlines()) > 1, text


def test_a_group_id_stands_for_its_first_slot() -> None:
    text = explain(graph("llama"), f"{ATTENTION}q_proj.weight:0/attention", f"{ATTENTION}k_proj.weight:0")
    assert "share" in text


@pytest.mark.parametrize("wrong", ["nothing", "nothing:0", "lm_head.weight:2", "lm_head.weight:x", "lm_head.weight"])
def test_an_unknown_dimension_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="is no weight dimension; write it as parameter:dim"):
        explain(graph("llama"), wrong, "lm_head.weight:0")


def test_near_names_are_offered() -> None:
    with pytest.raises(UsageError, match=r"near: lm_head\.weight"):
        explain(graph("llama"), "lm_head:0", "lm_head.weight:0")


def test_edges_name_the_node_that_made_them() -> None:
    names = {node.name for node in graph("llama").nodes}
    edges = coupling_graph(analysis("llama")).edges(data="node")
    assert edges
    assert all(node in names for _, _, node in edges)
    assert analyze(graph("llama")).groups
