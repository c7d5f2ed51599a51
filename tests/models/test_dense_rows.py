"""Loops over rows that are picked by value are captured exactly, or refused."""

import contextlib
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from graphprune.errors import CaptureError
from graphprune.frontend.pretrained import require_same
from graphprune.frontend.source import capture
from graphprune.frontend.tracing.normalise import capture_module
from graphprune.models.contract import Contract
from graphprune.models.dense_rows import DenseRows, dense_rows, tolist
from graphprune.models.patches import transformers_patches
from graphprune.running import comparison
from tests.analysis.test_choices import SMALL
from tests.support import oracle

DBRX: dict[str, Any] = {
    "d_model": 32,
    "n_heads": 4,
    "n_layers": 1,
    "vocab_size": 61,
    "max_seq_len": 64,
    "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
    "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 3, "moe_top_k": 2, "hidden_size": 32},
    "pad_token_id": 0,
}
JETMOE: dict[str, Any] = {
    **{name: SMALL[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")},
    "kv_channels": 8,
    "num_key_value_heads": 2,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
}
CONFIGS = {"dbrx": lambda: transformers.DbrxConfig(**DBRX), "jetmoe": lambda: transformers.JetMoeConfig(**JETMOE)}


@pytest.mark.parametrize("name", CONFIGS)
def test_looped_experts_are_captured_exactly(name: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    graph = capture(model)
    assert comparison.agree(model, graph)
    wide, analysis, masked = oracle.analyses(graph)
    keep = {g.id: tuple(range(1, g.units)) for g in analysis.groups.prunable() if g.kind != "vocabulary"}
    assert keep
    oracle.check_cut(wide, analysis, masked, oracle.Plan(keep, statistics="exact"), 1e-9)


class Loop(nn.Module):
    """Experts in the loop that models write, with something done to the rows of each."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up, self.kind = nn.Linear(6, 4), nn.Parameter(torch.randn(4, 6, 6)), kind

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        weights, index = self.gate(x).softmax(-1).topk(2)
        mask = nn.functional.one_hot(index, 5).permute(2, 1, 0)
        result = torch.zeros_like(x)
        for expert in mask.sum((-1, -2)).greater(0).nonzero():
            place, token = torch.where(mask[expert[0]])
            y = torch.tanh(x[token] @ self.up[expert[0]])
            if self.kind == "mixed":
                y = y - y.mean(0)
            y = y * weights[token, place, None]
            if self.kind == "assigned":
                result[token] = result[token] + y
            else:
                result.index_add_(0, token, y)
        return result


def traced(kind: str) -> tuple[Any, Any]:
    contract = Contract({"x": torch.randn(5, 6)}, {"x": {0: "batch"}}, ("y",))
    loop = Loop(kind)
    return loop, capture_module(loop, contract, "", transformers_patches)


@pytest.mark.parametrize("rows", [1, 3, 9])
def test_a_loop_computes_the_same_for_any_number_of_rows(rows: int) -> None:
    loop, graph = traced("rows")
    x = torch.randn(rows, 6)
    with torch.no_grad():
        torch.testing.assert_close(graph(x)[0], loop(x))
    assert {"nonzero", "where", "index_add_"} <= set(graph.source.dense_rows)


def test_writes_that_are_not_understood_are_refused() -> None:
    with pytest.raises(CaptureError, match="cannot trace __setitem__ with rows that are picked by value"):
        traced("assigned")


def test_rows_that_look_at_each_other_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, graph = traced("mixed")
    x = torch.randn(4, 6)
    with torch.no_grad():
        assert not torch.allclose(graph(x)[0], loop(x), atol=1e-3)
    monkeypatch.setattr(
        "graphprune.frontend.pretrained.compare_models",
        lambda model, graph: [comparison.compare("the model", "output", graph(x)[0].detach(), model(x).detach())],
    )
    with pytest.raises(CaptureError, match=r"does not compute what it does.*picks rows by value"):
        require_same(loop, graph, graph.source.dense_rows)


class Adapters(nn.Module):
    """Rows go through the adapter of their own kind."""

    def __init__(self, elsewhere: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.adapters, self.elsewhere = nn.Linear(6, 3), nn.Parameter(torch.randn(3, 6, 6)), elsewhere

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        kinds, result = self.gate(x).argmax(-1), torch.zeros_like(x)
        for kind in range(3):
            own = kinds == kind
            rows = x[own]
            result[kinds == kind if self.elsewhere else own] = torch.tanh(rows @ self.adapters[kind])
        return result


@pytest.mark.parametrize("rows", [1, 4])
def test_rows_picked_by_a_condition_are_put_back_where_it_holds(rows: int) -> None:
    contract = Contract({"x": torch.randn(5, 6)}, {"x": {0: "batch"}}, ("y",))
    module = Adapters()
    graph = capture_module(module, contract, "", transformers_patches)
    x = torch.randn(rows, 6)
    with torch.no_grad():
        torch.testing.assert_close(graph(x)[0], module(x))
    assert {"__getitem__", "__setitem__"} <= set(graph.source.dense_rows)


def test_rows_put_elsewhere_are_refused() -> None:
    contract = Contract({"x": torch.randn(5, 6)}, {"x": {0: "batch"}}, ("y",))
    with pytest.raises(CaptureError, match="elsewhere than where they were picked"):
        capture_module(Adapters(elsewhere=True), contract, "", transformers_patches)


def test_a_loop_over_all_rows_computes_the_same_on_values_too() -> None:
    """Without a trace, so that a difference is the mode's own."""
    loop, x = Loop("rows"), torch.randn(7, 6)
    with torch.no_grad():
        wanted = loop(x)
        with DenseRows() as rows:
            torch.testing.assert_close(loop(x), wanted)
    assert rows.used.count("where") == 4, "an encoding with room for a fifth expert never has it"


def test_parts_of_computed_sizes_are_put_together_as_they_were() -> None:
    x, sizes = torch.randn(9, 3), torch.tensor([4, 0, 5])
    wanted = torch.cat([part * (index + 1) for index, part in enumerate(torch.split(x, sizes.tolist()))])
    with DenseRows() as rows:
        parts = torch.split(x, tolist(sizes))
        assert {part.shape for part in parts} == {x.shape}, "all rows each time"
        found = torch.cat([part * (index + 1) for index, part in enumerate(parts)])
    assert torch.equal(found, wanted)
    assert rows.used == ["split", "cat"]


def test_parts_in_another_order_and_columns_are_refused() -> None:
    x, place = torch.randn(4, 3), torch.tensor([True, False, True])
    with DenseRows():
        parts = torch.split(x, tolist(torch.tensor([1, 3])))
        with pytest.raises(CaptureError, match="some parts of a split by computed sizes"):
            torch.cat([parts[1], parts[0]])
        with pytest.raises(CaptureError, match="some parts of a split by computed sizes"):
            torch.cat([parts[0], parts[1]], dim=1)
        (columns,) = torch.where(place)
        with pytest.raises(CaptureError, match="columns that are picked by value"):
            torch.zeros(4, 3).index_add(1, columns, x)


def test_what_picks_nothing_by_value_is_left_alone() -> None:
    x = torch.randn(4, 3)
    with DenseRows() as rows:
        chosen = torch.where(x > 0, x, 0.0)
        assert [part.shape[0] for part in torch.split(x, [1, 3])] == [1, 3]
        assert torch.equal(torch.cat([x, x])[:4], x)
        assert torch.equal(x[torch.tensor([2, 0])], torch.stack([x[2], x[0]]))
        assert torch.equal(torch.zeros(4, 3).index_add(0, torch.arange(4), x), x)
    assert torch.equal(chosen, x.clamp(min=0))
    assert rows.used == []


def test_traced_tensors_list_their_values_as_before_once_the_trace_is_over() -> None:
    before = FakeTensor.tolist
    with contextlib.suppress(ZeroDivisionError), dense_rows():
        assert FakeTensor.tolist is not before
        raise ZeroDivisionError
    assert FakeTensor.tolist is before
