"""Compiled layers: those that are the same share a compilation, and compute what the graph computes."""

from functools import partial

import pytest
import torch
from torch import fx, nn

from graphprune.analysis.analyse import analyze
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import decoder_inputs
from graphprune.training.execution.compiled import Compiler, missing_compiler, with_weights_given
from graphprune.training.execution.layer_modules import segmented
from graphprune.training.execution.way import Way, run_by
from tests.support.tiny_llama import ids, tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")


def compilations(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> int:
    compiled = list[nn.Module]()
    monkeypatch.setattr(torch, "compile", lambda module, **_: compiled.append(module) or module)
    compiler = Compiler(full=False)
    for layer in segmented(graph)[1]:
        compiler(layer)
    return len(compiled)


def test_equal_layers_share_one_and_others_have_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compilations(tiny_graph(), monkeypatch) == 1
    group = next(each for each in analyze(tiny_graph()).groups if each.kind == "mlp")
    cut = apply(tiny_graph(), Plan({group.id: tuple(range(group.units // 2))}))
    assert compilations(cut, monkeypatch) == 2


def test_a_layer_with_its_weights_given_is_the_layer() -> None:
    for layer in segmented(tiny_graph())[1]:
        nodes, names = with_weights_given(layer.graph)
        parameters = dict(layer.named_parameters())
        inputs = [node.name for node in nodes.find_nodes(op="placeholder")]
        assert len(names) == 9
        assert set(names) <= {*parameters, *dict(layer.named_buffers())}
        assert inputs[: len(names)] == [f"w{place}" for place in range(len(names))]
        assert not nodes.find_nodes(op="get_attr")
        assert fx.GraphModule({}, nodes).code


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of inductor as it is imported, and of how dynamo looks at tensors
@pytest.mark.parametrize("checkpoint", ["off", "full"])
def test_logits_and_gradients_are_the_graphs(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated ahead of time, without the minutes of a C++ compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    graph = tiny_graph()
    module = run_by(graph, "logits", Way(checkpoint, compile=True))  # type: ignore[arg-type]
    parameters, inputs = list(graph.parameters().values()), decoder_inputs(graph, ids(2, 7))
    (found,), wanted = module(*inputs), graph(*inputs)[graph.outputs.index("logits")]
    torch.testing.assert_close(found, wanted)
    ours, theirs = (torch.autograd.grad(each.square().sum(), parameters) for each in (found, wanted))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_without_a_compiler_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    def nothing() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", nothing)
    reason = missing_compiler(torch.device("cpu"))
    assert reason is not None
    assert "install g++" in reason
