"""Casts as nodes of the graph: those that autocast makes within products."""

import pytest
import torch

from graphprune.ir.operators import opname
from graphprune.running.inputs import decoder_inputs
from graphprune.training.execution.casts import with_casts
from tests.support.tiny_llama import ids, tiny_graph


@pytest.mark.xdist_group("tiny_llama")
def test_each_product_has_casts_of_its_own_and_the_result_is_autocasts() -> None:
    graph = tiny_graph()
    cast = with_casts(graph, torch.bfloat16)
    casts = [node for node in cast.nodes if node.target is torch.ops.aten.to.dtype]
    products = [node for node in cast.nodes if opname(node) in ("linear", "scaled_dot_product_attention")]
    assert all(len(node.users) == 1 for node in casts)
    assert {next(iter(node.users)) for node in casts} == set(products)
    assert not [node for node in casts if node.all_input_nodes[0].op == "get_attr"], "weights are left to autocast"
    inputs = decoder_inputs(graph, ids(2, 7))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cast(*inputs)[0], graph(*inputs)[0])
