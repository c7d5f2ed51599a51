"""States of a fixed size: what a call along the tokens keeps of the text so far, and when it can."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphprune.frontend.stepwise.derive import Builder, stepwise
from graphprune.frontend.stepwise.fixed_states import HELD, held, resized
from graphprune.frontend.stepwise.token_flow import SEQUENCE, token_dims
from graphprune.ir.graph import Graph
from graphprune.ir.operators import opname
from graphprune.ir.recurrence import linear_recurrence
from graphprune.ir.types import TensorType
from graphprune.ir.verification import verify
from graphprune.models.recurrent_scans import shifted
from graphprune.running.runners import graph_runner
from tests.support.texts import IDS, WIDTH, Mix, graph_of, heads, joined

functional = nn.functional


def padded(x: Tensor, mask: Tensor) -> Tensor:
    return x * functional.pad(x, (0, 0, 1, -1))


def after_zero(x: Tensor, mask: Tensor) -> Tensor:
    return x + shifted(x, 1, 0.0)


def after_another(x: Tensor, mask: Tensor) -> Tensor:
    return x + shifted(x, 1, -3.0)


def summed(x: Tensor, mask: Tensor) -> Tensor:
    return x.cumsum(1)


def largest(x: Tensor, mask: Tensor) -> Tensor:
    return torch.cummax(x, 1).values


def largest_above_zero(x: Tensor, mask: Tensor) -> Tensor:
    return torch.cummax(x, 1).values.clamp(min=0)


def scanned(x: Tensor, mask: Tensor) -> Tensor:
    y = heads(x)
    state = torch.zeros_like(y[:, :, 0, :, None] * y[:, :, 0, None])
    return joined(linear_recurrence(y, y, y, -y[..., :1, None].abs(), state)[0])


def convolved(x: Tensor, mask: Tensor) -> Tensor:
    kernel = torch.linspace(-1, 1, WIDTH * 3).reshape(WIDTH, 1, 3)
    wide = functional.conv1d(x.transpose(1, 2), kernel, None, 1, 2, 1, WIDTH)
    return wide[..., : x.shape[1]].transpose(1, 2)


STATES: list[tuple[Mix, str, str]] = [
    (padded, "conv", "float32[batch, 1, 8]"),
    (after_zero, "conv", "float32[batch, 1, 8]"),
    (after_another, "conv", "float32[batch, 1, 8]"),
    (summed, "recurrent", "float32[batch, 1, 8]"),
    (largest, "recurrent", "float32[batch, 1, 8]"),
    (largest_above_zero, "recurrent", "float32[batch, 1, 8]"),
    (scanned, "recurrent", "float32[batch, 2, 4, 4]"),
    (convolved, "conv", "float32[batch, 8, 2]"),
]
EVERY = pytest.mark.parametrize(("mix", "part", "shape"), STATES, ids=[mix.__name__ for mix, _, _ in STATES])


@EVERY
def test_one_state_of_a_fixed_size_goes_in_and_comes_out(mix: Mix, part: str, shape: str) -> None:
    found = stepwise(graph_of(mix))
    verify(found)
    name = f"past_key_values.0.{part}"
    assert found.inputs == ("input_ids", "attention_mask", name)
    assert found.outputs == ("logits", f"present.0.{part}")
    assert str(found.placeholders[name].meta["value"]) == shape
    assert str(found.results[f"present.0.{part}"].meta["value"]) == shape


@EVERY
@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_text_in_steps_is_the_text_at_once(mix: Mix, part: str, shape: str, step: int) -> None:
    """Values below zero come too, which zeros that stand for nothing so far would hide."""
    graph = graph_of(mix)
    ids = torch.randint(IDS, (2, 10), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    run, past, logits = graph_runner(stepwise(graph)), None, []
    with torch.no_grad():
        [whole] = graph(ids, mask)
        for start in range(0, 10, step):
            new, past = run(ids[:, start : start + step], mask[:, : start + step], ids, past)
            logits.append(new)
    torch.testing.assert_close(torch.cat(logits, 1), whole, rtol=1e-4, atol=1e-5)


def test_a_state_is_what_the_text_so_far_left() -> None:
    """Of running sums the last, of a convolution as many tokens as it looks back."""
    ids = torch.randint(IDS, (2, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    for mix in (summed, convolved):
        graph = graph_of(mix)
        module = graph.module
        with torch.no_grad():
            x = functional.linear(module.module.table.weight[ids], *weights(graph))
            _, past = graph_runner(stepwise(graph))(ids, mask, ids, None)
        [state] = past.values()
        torch.testing.assert_close(state, x.sum(1, keepdim=True) if mix is summed else x[:, -2:].transpose(1, 2))


def weights(graph: Graph) -> tuple[Tensor, Tensor]:
    parameters = graph.parameters()
    return parameters["module.first.weight"], parameters["module.first.bias"]


def two_back(x: Tensor, mask: Tensor) -> Tensor:
    return functional.pad(x, (0, 0, 2, -2))


def before_a_one(x: Tensor, mask: Tensor) -> Tensor:
    return functional.pad(x, (0, 0, 1, -1), value=1.0)


def across_features(x: Tensor, mask: Tensor) -> Tensor:
    return functional.pad(x, (1, -1)) + x.cumsum(2) + torch.cummax(x, 2).values


def two_in_front(x: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:, :2]), x[:, :-2]], 1)


def other_sides(x: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)


def looking_ahead(x: Tensor, mask: Tensor) -> Tensor:
    kernel = torch.ones(WIDTH, 1, 3)
    wide = functional.conv1d(x.transpose(1, 2), kernel, None, 1, 2, 1, WIDTH)
    return wide[..., 1 : x.shape[1] + 1].transpose(1, 2)


def in_strides(x: Tensor, mask: Tensor) -> Tensor:
    kernel = torch.ones(WIDTH, 1, 3)
    wide = functional.conv1d(functional.pad(x.transpose(1, 2), (1, 1)), kernel, None, 1, 0, 1, WIDTH)
    return wide[..., : x.shape[1]].transpose(1, 2)


def from_a_beginning(x: Tensor, mask: Tensor) -> Tensor:
    y = heads(x)
    state = torch.ones_like(y[:, :, 0, :, None] * y[:, :, 0, None])
    return joined(linear_recurrence(y, y, y, -y[..., :1, None].abs(), state)[0])


@pytest.mark.parametrize(
    "mix",
    [two_back, before_a_one, across_features, two_in_front, other_sides, looking_ahead, in_strides, from_a_beginning],
)
def test_what_only_looks_like_one_is_left_alone(mix: Callable[[Tensor, Tensor], Tensor]) -> None:
    graph = graph_of(mix)
    builder = Builder(graph)
    tried = 0
    for node in graph.nodes:
        if node.op == "call_function" and node in builder.depends:
            tried += (opname(node) or getattr(node.target, "__name__", "")) in HELD
            assert held(builder, node, token_dims(node)) is None, node
    assert tried
    assert builder.presents == {}


def test_a_call_of_which_no_new_tokens_are_asked_holds_nothing() -> None:
    graph = graph_of(summed)
    builder = Builder(graph)
    counted = next(node for node in graph.nodes if opname(node) == "cumsum")
    assert held(builder, counted, frozenset()) is None
    assert held(builder, counted, frozenset({1})) is not None
    assert [*builder.presents] == ["past_key_values.0.recurrent"]


def test_states_of_one_layer_are_numbered() -> None:
    found = stepwise(graph_of(twice))
    assert [n for n in found.inputs if n.startswith("past")] == [
        "past_key_values.0.recurrent",
        "past_key_values.0.recurrent1",
        "past_key_values.0.conv",
    ]


def twice(x: Tensor, mask: Tensor) -> Tensor:
    return padded(x.cumsum(1).cumsum(1), mask)


def test_a_size_changes_in_one_dimension() -> None:
    kind = TensorType(torch.float16, (2, SEQUENCE, 3))
    assert resized(kind, 1, 4) == TensorType(torch.float16, (2, 4, 3))
