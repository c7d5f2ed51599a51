"""Models of few positions: whatever runs one keeps within them, those that are learned and those that are turned."""

from typing import Any

import pytest
import torch
import transformers

from graphprune.analysis.analyse import analyze
from graphprune.context import stated_context
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from graphprune.rewriting.oracle import check_against_masked
from graphprune.running.observations import reference
from graphprune.running.perplexity import perplexity


def learned(positions: int) -> Any:
    shape = {"vocab_size": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_positions=positions, **shape))


def turned(positions: int) -> Any:
    shape = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(max_position_embeddings=positions, **shape, **heads))


@pytest.fixture(
    scope="module",
    params=[(learned, 2), (learned, 3), (learned, 11), (turned, 5)],
    ids=lambda each: f"{each[0].__name__}-{each[1]}",
)
def graph(request: pytest.FixtureRequest) -> Graph:
    make, positions = request.param
    torch.manual_seed(0)
    return capture(make(positions).eval())


def test_what_is_observed_reaches_the_end_of_the_context_and_no_further(graph: Graph) -> None:
    context = stated_context(graph.source.config)
    assert context is not None
    found = reference(graph)
    prompt = found["input.prompt"].shape[1]
    assert 1 <= prompt <= max(1, context // 2)
    assert prompt + found["input.steps"].shape[1] <= context
    assert prompt + len(found["greedy.tokens"]) == context
    assert found["input.padded"].shape[1] + 1 <= context


def test_the_oracle_and_perplexity_keep_within_it(graph: Graph) -> None:
    group = next(each for each in analyze(graph).prunable() if each.kind == "mlp")
    plan = Plan({group.id: tuple(range(group.units // 2))})
    assert check_against_masked(graph, apply(graph, plan), plan, 0)[0].passed
    found = perplexity(graph, torch.arange(14) % 16, 256)
    assert found.tokens == 13
