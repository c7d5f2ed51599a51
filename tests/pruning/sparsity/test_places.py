"""Places: linear layers but the head and what is shared; weights that groups do not fit are named with a remedy."""

import pytest

from graphprune.errors import UsageError
from graphprune.pruning.sparsity.places import find_places
from graphprune.weights.patterns import Grouped, Share
from tests.support.families import families, graph


@pytest.mark.parametrize("name", families(("llama", "gpt2")))
def test_every_linear_layer_but_the_head_has_a_place(name: str) -> None:
    model = graph(name)
    found = find_places(model, Grouped(2, 4), None, ())
    weights = [call.weight for call in found.calls]
    assert len(weights) == len(set(weights)) > 4
    assert not any("lm_head" in weight or "embed" in weight or "wte" in weight for weight in weights)
    nodes = {node.name for node in model.nodes}
    assert found.starts
    assert found.starts <= nodes


@pytest.mark.xdist_group("mixtral")
def test_stacks_of_experts_are_named_and_stay() -> None:
    found = find_places(graph("mixtral"), Share(0.5), None, ())
    assert any("experts" in note and "parameters): only matrices" in note for note in found.notes)
    assert not any("experts" in call.weight for call in found.calls)


@pytest.mark.xdist_group("llama")
def test_scope_and_skip_choose_and_bad_ones_are_told() -> None:
    model = graph("llama")
    only = find_places(model, Share(0.5), r"layers\.1\.", ("down_proj",))
    assert {call.weight.split(".")[2] for call in only.calls} == {"1"}
    assert not any("down_proj" in call.weight for call in only.calls)
    with pytest.raises(UsageError, match="no linear layer with vision in its name"):
        find_places(model, Share(0.5), "vision", ())
    wrong = r"down_proj\.weight read 44 inputs, which is no multiple of 8: 4:8 .* --set sparsify.skip=\[down_proj\]"
    with pytest.raises(UsageError, match=wrong):
        find_places(model, Grouped(4, 8), None, ())
    find_places(model, Grouped(4, 8), None, ("down_proj",))
