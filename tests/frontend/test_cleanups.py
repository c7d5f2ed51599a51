"""The passes that made a graph are data: they run in one order, and the graph says what each did."""

from dataclasses import replace

import torch
from torch import nn

import graphprune
from graphprune import Graph, Plan, analyze, capture
from graphprune.frontend.tracing.cleanups import STEPS, Step, clean, remove_unread
from graphprune.ir.cleanups import Cleanup
from graphprune.ir.lineage import Step as HistoryStep
from tests.support.drafts import Drawing, check
from tests.support.families import graph

_aten = torch.ops.aten
TRACED = ("dense_rows", "export", "decompose", "name_sizes")
CLEANED = (
    "drop_assertions",
    "functional_form",
    "complex_to_pairs",
    "fold_constants",
    "picks_to_slices",
    "drop_idle_clamps",
    "fuse_layer_norms",
    "remove_unread",
)


def names(graph: Graph) -> tuple[str, ...]:
    return tuple(cleanup.name for cleanup in graph.cleanups)


def did(graph: Graph, name: str) -> str:
    return next(cleanup.did for cleanup in graph.cleanups if cleanup.name == name)


def test_what_nothing_reads_is_left_out() -> None:
    drawing = Drawing()
    x, weight = drawing.input("x", 3), drawing.tensor("weight", torch.ones(3))
    drawing.call(_aten.neg.default, drawing.call(_aten.mul.Tensor, x, weight))
    before = """
  %0: float32[3] = mul.Tensor(x, @weight)
  %1: float32[3] = neg(%0)
  %2: float32[3] = relu(x)
outputs
  output.0 = %2
"""
    after = """
  %0: float32[3] = relu(x)
outputs
  output.0 = %0
"""
    check(remove_unread, drawing.output(drawing.call(_aten.relu.default, x)), 3, before, after)


def test_the_loop_runs_the_steps_in_order_and_says_what_they_did() -> None:
    drawing, ran = Drawing(), []

    def first(draft: object) -> int:
        ran.append("first")
        return 1200

    def second(draft: object) -> int:
        ran.append("second")
        return 0

    b, a = (drawing.tensor(name, torch.ones(3)) for name in ("b", "a"))
    draft = drawing.output(drawing.call(_aten.add.Tensor, b, a))
    module, done = clean(draft, ["a", "b"], [Step(first, "things done"), Step(second, "others")])
    assert ran == ["first", "second"]
    assert done == (
        Cleanup("first", "1,200 things done"),
        Cleanup("second"),
        Cleanup("canonical", "2 tensors in the model's order, 0 constants, 2 calls"),
    )
    assert [node.target for node in module.graph.find_nodes(op="get_attr")] == ["a", "b"]


def test_the_order_is_written_down() -> None:
    assert tuple(step.name for step in STEPS) == CLEANED
    assert names(graph("cnn")) == (*TRACED, *CLEANED, "canonical", "repeat_blocks")


def test_the_record_says_what_was_done() -> None:
    class Module(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.detach() * torch.tensor([4.0, 9.0]).sqrt()

    captured = capture(Module(), inputs={"x": torch.randn(3, 2)})
    assert did(captured, "fold_constants") == "1 constants computed once"
    assert did(captured, "fuse_layer_norms") == did(captured, "repeat_blocks") == ""
    assert did(captured, "export").endswith(" calls traced")


def test_repeated_blocks_are_one_of_the_passes() -> None:
    captured = graphprune.capture("demo", weights=False)
    assert names(captured) == (*TRACED, *CLEANED, "canonical", "repeat_blocks")
    assert did(captured, "repeat_blocks") == "6 blocks of model.layers made of the first 2"


def test_the_record_goes_with_the_graph() -> None:
    captured = graph("llama")
    group = analyze(captured).prunable()[0]
    cut = graphprune.apply(captured, Plan({group.id: (0,)}))
    assert captured.fork().cleanups == cut.cleanups == captured.cleanups
    assert replace(captured).record(HistoryStep("x", None, 1, 1)).cleanups == captured.cleanups
    assert captured.with_tensors({}).cleanups == captured.cleanups
