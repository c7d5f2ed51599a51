"""Dropped branches: the sum becomes what else was added, and the caches of the branch leave the contract."""

import pytest
import torch

from graphprune.analysis.groups import Branch
from graphprune.ir.operators import remove_dead
from graphprune.ir.plan import Plan
from graphprune.ir.verification import verify
from graphprune.rewriting.branch_dropping import drop_branches, without_caches
from tests.support.families import analysis, families, graph, wide
from tests.support.oracle import SETTINGS, example

LLAMA = pytest.mark.xdist_group("llama")


def branch(name: str, id: str) -> Branch:
    return next(b for b in analysis(name).groups.branches if b.id == id)


@LLAMA
def test_without_a_branch_nothing_is_done() -> None:
    assert drop_branches(graph("llama"), []) is graph("llama")


@pytest.mark.parametrize("name", families(["llama", "gpt_neox", "bert", "cnn"]))
def test_a_dropped_branch_adds_nothing(name: str) -> None:
    """Against the masked model in fp64, in which the branch is multiplied by zero: in turn for each."""
    found = wide(name)
    for gone in found.analysis.groups.branches:
        left = drop_branches(found.graph.fork(), [gone])
        remove_dead(left.module.graph)
        left.module.recompile()
        inputs = dict(zip(found.graph.inputs, example(found.graph, SETTINGS[1]), strict=True))
        assert set(found.graph.inputs) - set(left.inputs) == {f"past_key_values.{cache}" for cache in gone.caches}
        with torch.no_grad():
            full = dict(zip(found.graph.outputs, found.masked(Plan({}, (gone.id,)), *inputs.values()), strict=True))
            small = dict(zip(left.outputs, left(*(inputs[n] for n in left.inputs)), strict=True))
        assert set(full) - set(small) == {f"present.{cache}" for cache in gone.caches}
        for output, value in small.items():
            torch.testing.assert_close(value, full[output], rtol=1e-9, atol=1e-9)


@LLAMA
def test_attention_takes_its_cache_along_and_an_mlp_has_none() -> None:
    source = graph("llama")
    mlp = drop_branches(source.fork(), [branch("llama", "model.layers.0.mlp")])
    assert (mlp.inputs, mlp.outputs) == (source.inputs, source.outputs)
    attention = drop_branches(source.fork(), [branch("llama", "model.layers.0.self_attn")])
    assert {n.split(".")[1] for n in attention.inputs if n.startswith("past_key_values")} == {"1"}
    assert [n for n in attention.outputs if n.startswith("present.")] == ["present.1.key", "present.1.value"]
    verify(attention)


@pytest.mark.xdist_group("gpt_neox")
def test_parallel_branches_leave_one_after_the_other() -> None:
    source = graph("gpt_neox")
    both = [b for b in analysis("gpt_neox").groups.branches if ".layers.0." in b.id]
    left = drop_branches(source.fork(), both)
    remove_dead(left.module.graph)
    assert not [n for n in left.tensors() if n.startswith("gpt_neox.layers.0.")]
    assert [n for n in left.tensors() if n.startswith("gpt_neox.layers.1.")]


@LLAMA
def test_a_cache_that_is_still_read_is_no_ones_to_remove() -> None:
    forked = graph("llama").fork()
    with pytest.raises(AssertionError, match=r"past_key_values\.0\.key is still read after its branch was dropped"):
        without_caches(forked, {"0.key"})
