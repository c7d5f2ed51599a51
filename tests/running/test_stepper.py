"""A graph run from place to place: the same values, and stored weights asked for a layer ahead."""

from pathlib import Path

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.analysis.layers import find_layers
from graphprune.frontend.source import capture
from graphprune.running import stepper
from graphprune.running.inputs import decoder_inputs
from graphprune.running.stepper import Stepper
from graphprune.weights.mapping import system_call
from tests.support import zoo
from tests.support.families import families


@pytest.mark.skipif(system_call() is None, reason="this system has no /proc and madvise as Linux does")
@pytest.mark.parametrize("name", families(["llama"]))
def test_the_weights_of_the_next_layer_are_asked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.build(name).save_pretrained(tmp_path)
    graph = capture(tmp_path, stored=True)
    names, asked = {id(tensor): key for key, tensor in graph.tensors().items()}, list[set[str]]()
    monkeypatch.setattr(stepper, "look_ahead", lambda found: asked.append({names[id(each)] for each in found}))
    nodes = {node.name: node for node in graph.nodes}
    inputs = decoder_inputs(graph, torch.arange(7)[None])
    run = Stepper(graph, [inputs], frozenset({graph.results["logits"].name}))
    for layer in find_layers(analyze(graph)):
        run.advance(nodes[layer[-1].add])
    run.advance(graph.nodes[-1])
    first, second, rest = asked
    assert any(".layers.1." in key for key in first)
    assert not any(".layers.0." in key for key in first | second | rest)
    assert "model.norm.weight" in second
    assert not rest
    with torch.no_grad():
        torch.testing.assert_close(run.value(graph.results["logits"])[0], graph(*inputs)[0])
