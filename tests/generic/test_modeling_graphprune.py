"""The class that runs a graph out of a checkpoint: as transformers' own do, with every kind of cache, and no code."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.backends.huggingface.backend import HuggingFace
from graphprune.generic.modeling_graphprune import GraphpruneConfig, GraphpruneForCausalLM, GraphpruneModel
from graphprune.generic.program_graphprune import pack, unpack
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import decoder_inputs
from tests.support.families import graph as family
from tests.support.tiny_llama import ids, tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")


@pytest.fixture(scope="module")
def cut() -> Graph:
    return apply(tiny_graph(), plan_of(tiny_graph()))


def plan_of(graph: Graph) -> Plan:
    """The second layer keeps three of its four heads and half of its channels."""
    last = {group.kind: group for group in analyze(graph).prunable(frozenset({"attention", "mlp"}))}
    return Plan({last["attention"].id: (0, 2, 3), last["mlp"].id: tuple(range(0, 24, 2))})


@pytest.fixture(scope="module")
def folder(cut: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generic")
    HuggingFace(form="generic").export(cut, path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return GraphpruneForCausalLM.from_pretrained(folder).eval()


def logits(graph: Graph, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return graph(*decoder_inputs(graph, tokens))[0]


def test_it_computes_what_the_graph_does(model: Any, cut: Graph) -> None:
    tokens = ids(3, 9)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, logits(cut, tokens))
        torch.testing.assert_close(model(tokens, logits_to_keep=2).logits, logits(cut, tokens)[:, -2:])
        chosen = torch.tensor([0, 4])
        torch.testing.assert_close(model(tokens, logits_to_keep=chosen).logits, logits(cut, tokens)[:, chosen])
    assert sum(p.numel() for p in model.parameters()) == cut.parameter_count()


def test_the_loss_is_that_of_the_next_token(model: Any, cut: Graph) -> None:
    tokens = ids(2, 8)
    labels = tokens.clone()
    labels[0, :3] = -100
    wanted = torch.nn.functional.cross_entropy(logits(cut, tokens)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert model(tokens, labels=labels).loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert model(tokens).loss is None


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_a_cache_gives_what_the_whole_text_gives(name: str, model: Any, cut: Graph) -> None:
    """`generate` passes it by the first name before transformers 5.24, and by the second since."""
    tokens, cache = ids(2, 7, seed=1), transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        for start, end in ((0, 4), (4, 5), (5, 7)):
            output = model(tokens[:, start:end], **{name: cache})
            torch.testing.assert_close(output.logits, logits(cut, tokens)[:, start:end], rtol=1e-4, atol=1e-5)
    assert output.past_key_values is cache
    assert [layer.keys.shape for layer in cache.layers] == [(2, 4, 7, 4), (2, 3, 7, 4)]
    assert model(tokens, use_cache=False).past_key_values is None


def test_a_cache_by_a_name_that_nobody_knows_makes_no_other_tokens(model: Any) -> None:
    """As checkpoints of before did under transformers 5.24: each step saw one token, and no past."""
    tokens, cache = ids(2, 7, seed=1), transformers.DynamicCache(config=model.config)
    model(tokens[:, :4], past_key_values=cache)
    with pytest.raises(ValueError, match="covers 5 tokens, the input has 1, and no cache was given"):
        model(tokens[:, 4:5], attention_mask=torch.ones(2, 5), kept=cache)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_it_generates_what_the_graph_thinks_likeliest(kind: str, model: Any, cut: Graph) -> None:
    text = ids(2, 7, seed=1)
    options = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 0, "eos_token_id": None}
    found = model.generate(text, cache_implementation=kind, **options)
    for _ in range(4):
        text = torch.cat([text, logits(cut, text)[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, text)


def test_what_a_mask_leaves_out_is_not_seen(model: Any) -> None:
    tokens = ids(1, 5)
    padded = torch.cat([torch.full((1, 3), 7), tokens], 1)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        found = model(padded, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits[:, 3:]
        torch.testing.assert_close(found, model(tokens).logits, rtol=1e-4, atol=1e-5)


def sliding() -> Any:
    config = transformers.MistralConfig(num_hidden_layers=2, sliding_window=4)
    return transformers.DynamicCache(config=config)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": None}, "takes input_ids; inputs_embeds are not supported"),
        ({"inputs_embeds": torch.zeros(1, 3, 32)}, "inputs_embeds are not supported"),
        ({"attention_mask": torch.ones(1, 1, 3, 3)}, r"of shape \[batch, past \+ sequence\]"),
        ({"attention_mask": torch.ones(1, 2)}, "covers 2 tokens, but past and input have 3"),
        ({"past_key_values": sliding()}, "a DynamicCache or a StaticCache made with its own configuration"),
    ],
)
def test_what_it_does_not_take_is_refused(given: dict[str, Any], message: str, model: Any) -> None:
    with pytest.raises(ValueError, match=message):
        model(**{"input_ids": ids(1, 3), **given})


def test_a_configuration_is_shown_without_its_graph(model: Any) -> None:
    assert len(model.config.graph) > 500
    assert model.config.graph not in repr(model.config)
    assert f'"model_type": "{GraphpruneConfig.model_type}"' in repr(model.config)


def damaged(model: Any, change: Any) -> GraphpruneConfig:
    graph = json.loads(json.dumps(unpack(model.config.graph)))
    change(graph)
    return GraphpruneConfig(**{**model.config.to_dict(), "graph": pack(graph)})


def rename(graph: Any) -> None:
    next(node for node in graph["nodes"] if node[0].startswith("aten."))[0] = "os.system"


def look_ahead(graph: Any) -> None:
    next(node for node in graph["nodes"] if node[0].startswith("aten."))[1][0] = {"node": len(graph["nodes"])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, "the operator 'os.system' is not allowed in a graph"),
        (look_ahead, r"reads node \d+; the checkpoint is damaged"),
        (lambda graph: graph.update(format=9), "has format 9, this file reads format 1; update graphprune"),
    ],
)
def test_a_graph_is_data_and_runs_nothing_else(change: Any, message: str, model: Any) -> None:
    with pytest.raises(ValueError, match=message):
        GraphpruneForCausalLM(damaged(model, change))


@pytest.mark.xdist_group("bert")
def test_an_encoder_takes_its_inputs_by_name_and_says_what_is_missing(tmp_path: Path) -> None:
    source = family("bert")
    HuggingFace(form="generic").export(source, tmp_path)
    found: Any = GraphpruneModel.from_pretrained(tmp_path).eval()
    tokens = torch.randint(3, 60, (2, 6))
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "token_type_ids": torch.zeros_like(tokens)}
    with torch.no_grad():
        (wanted,) = source(*(given[name] for name in source.inputs))
        torch.testing.assert_close(found(input_ids=tokens).logits, wanted)
    with pytest.raises(ValueError, match="also needs the inputs input_ids"):
        found(attention_mask=torch.ones(1, 3, dtype=torch.long))
