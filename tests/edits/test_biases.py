"""Added biases: zeros that change nothing, at the calls that were named and nowhere else."""

import pytest
import torch
from torch import nn

from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.edits.biases import add_biases, bias_name, can_take_bias
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.verification import verify
from tests.support.families import graph
from tests.support.oracle import SETTINGS, example

LLAMA = pytest.mark.xdist_group("llama")
DOWN, OUT = "model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.o_proj.weight"
DOWN_BIAS, OUT_BIAS = DOWN.replace("weight", "bias"), OUT.replace("weight", "bias")


def outputs(graph: Graph) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return graph(*example(graph, SETTINGS[0]))


@LLAMA
def test_biases_of_zeros_change_nothing() -> None:
    source = graph("llama")
    printed = str(source)
    biased = add_biases(source, [DOWN, OUT])
    verify(biased)
    assert set(biased.parameters()) - set(source.parameters()) == {DOWN_BIAS, OUT_BIAS}
    assert all(torch.equal(a, b) for a, b in zip(outputs(source), outputs(biased), strict=True))
    assert str(source) == printed
    assert not biased.module.training


@LLAMA
def test_a_bias_is_a_parameter_of_zeros_in_the_type_of_its_weight() -> None:
    source = graph("llama")
    half = source.with_tensors({DOWN: nn.Parameter(source.parameters()[DOWN].half(), requires_grad=False)})
    bias = add_biases(half, [DOWN]).parameters()[DOWN_BIAS]
    assert (bias.dtype, tuple(bias.shape), bias.requires_grad) == (torch.float16, (32,), False)
    assert not bias.any()
    assert add_biases(source, [DOWN]).parameters()[DOWN_BIAS].requires_grad


@LLAMA
def test_what_is_put_into_it_is_added_to_what_its_call_gives() -> None:
    biased = add_biases(graph("llama"), [DOWN])
    call = next(c for c in find_linear_calls(biased) if c.weight == DOWN)
    assert call.bias == DOWN_BIAS
    shifted = biased.with_tensors({DOWN_BIAS: nn.Parameter(torch.full((32,), 0.5))})
    assert not torch.allclose(outputs(shifted)[0], outputs(biased)[0], atol=1e-3)


@LLAMA
def test_a_call_that_has_one_keeps_it() -> None:
    once = add_biases(graph("llama"), [DOWN])
    assert add_biases(once, [DOWN]) is once
    assert add_biases(graph("llama"), []) is graph("llama")
    twice = add_biases(once, [DOWN, OUT])
    assert set(twice.parameters()) - set(once.parameters()) == {OUT_BIAS}


@LLAMA
@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight", "nothing.weight"])
def test_what_is_not_the_weight_of_one_linear_call_is_refused(name: str) -> None:
    message = f"{name} is not the weight of one linear call, so that no bias can be added there"
    with pytest.raises(PlanError, match=message):
        add_biases(graph("llama"), [DOWN, name])


@LLAMA
def test_only_calls_with_a_place_for_a_bias_can_take_one() -> None:
    llama = find_linear_calls(graph("llama"))
    assert all(can_take_bias(call) for call in llama)
    assert {bias_name(call).rpartition(".")[2] for call in llama} == {"bias"}


@pytest.mark.xdist_group("gpt2")
def test_a_bias_beside_a_transposed_weight_is_its_own() -> None:
    calls = {call.weight: call for call in find_linear_calls(graph("gpt2"))}
    fused = calls["transformer.h.0.attn.c_attn.weight"]
    assert fused.transposed
    assert can_take_bias(fused)
    assert add_biases(graph("gpt2"), [fused.weight]) is graph("gpt2")
