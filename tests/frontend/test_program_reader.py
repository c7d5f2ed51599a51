"""Program reader: names, sizes and tensors of a draft are those of the model and its contract, not of the export."""

import operator

import pytest
import sympy
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, export

from graphprune.frontend.tracing.draft import Draft
from graphprune.frontend.tracing.program_reader import ProgramReader, fold_left, named_tensors, tensor_names
from graphprune.ir.sizes import symbol
from graphprune.ir.types import TensorType
from graphprune.models.contract import Contract

BATCH, SEQUENCE, PAST = (symbol(name) for name in ("batch", "sequence", "past"))
aten = torch.ops.aten


class Tied(nn.Module):
    """Two layers with one weight, a buffer, and a constant that is made from nothing; sizes are read and added."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 4), nn.Linear(4, 4)
        self.leave.weight = self.enter.weight
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        both = torch.cat([past, self.leave(self.enter(x)) + self.table * torch.tensor([1.0, 2.0, 3.0, 4.0])], 1)
        return both.flatten(1) + torch.ones(both.shape[1] * 4)


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Tied()

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor]:
        return (self.model(x, past),)


INPUTS = {"x": torch.randn(2, 3, 4), "past_key_values.0.conv": torch.randn(2, 5, 4)}


def read(module: nn.Module) -> Draft:
    b, s, p = (Dim(name) for name in ("_batch", "_sequence", "_past"))
    program = export(module.eval(), tuple(INPUTS.values()), dynamic_shapes=({0: b, 1: s}, {0: b, 1: p}))
    dynamic = {"x": {0: "batch", 1: "sequence"}, "past_key_values.0.conv": {0: "batch", 1: "past"}}
    return ProgramReader(module, program, Contract(INPUTS, dynamic, ("y",)), "model.").read()


def test_inputs_have_the_names_and_sizes_of_the_contract() -> None:
    inputs = {n.target: n.meta["value"] for n in read(Wrapper()).graph.find_nodes(op="placeholder")}
    assert inputs == {
        "x": TensorType(torch.float32, (BATCH, SEQUENCE, 4)),
        "past_key_values_0_conv": TensorType(torch.float32, (BATCH, PAST, 4)),
    }


def test_tensors_have_the_first_of_their_names_without_the_prefix() -> None:
    """A tied weight is one attribute; a constant says that it is one."""
    module = Wrapper()
    draft = read(module)
    own = named_tensors(module)
    constants = {name for name in draft.tensors if name.startswith("constants.")}
    assert len(constants) == 1
    assert {*draft.tensors} - constants == {"enter.weight", "enter.bias", "leave.bias", "table"}
    assert all(draft.tensors[name] is own[f"model.{name}"] for name in {*draft.tensors} - constants)
    assert len(draft.graph.find_nodes(op="get_attr")) == len(draft.tensors)


def test_calls_know_their_sizes_and_the_module_they_were_made_in() -> None:
    draft = read(Wrapper())
    calls = {str(n.target): n for n in draft.graph.nodes if n.op == "call_function"}
    assert calls["aten.cat.default"].meta["value"].shape == (BATCH, PAST + SEQUENCE, 4)
    linear = [n.meta["scope"] for n in draft.graph.nodes if n.target is aten.linear.default]
    assert linear == ["enter", "leave"]
    assert "aten.flatten.using_ints" not in calls, "it is the reshape to its sizes"
    wide = calls["aten.reshape.default"].meta["value"].shape
    assert wide[0] == BATCH
    assert sympy.expand(wide[1] - 4 * (PAST + SEQUENCE)) == 0


def test_each_size_is_computed_once_from_the_shapes_of_the_inputs() -> None:
    draft = read(Wrapper())
    sizes = [n for n in draft.graph.nodes if n.op == "call_function" and isinstance(n.meta["value"], sympy.Expr)]
    said = [n.meta["value"] for n in sizes]
    assert len(said) == len(set(said))
    for node in sizes:
        if node.target is aten.sym_size.int:
            source, dim = node.args
            assert source.meta["value"].shape[dim] == node.meta["value"]  # type: ignore[union-attr,index]


def test_the_draft_computes_what_the_model_does_at_any_size() -> None:
    module = Wrapper().eval()
    draft = read(module)
    run = fx.GraphModule(draft.tensors, draft.graph)
    for batch, sequence, past in ((1, 2, 3), (3, 1, 0), (2, 7, 4)):
        inputs = torch.randn(batch, sequence, 4), torch.randn(batch, past, 4)
        torch.testing.assert_close(run(*inputs), module(*inputs))


def test_tensors_of_a_model_are_named_with_their_ties_and_without_the_prefix() -> None:
    names = ["enter.weight", "enter.bias", "leave.weight", "leave.bias", "table"]
    assert tensor_names(Wrapper(), "model.") == names
    assert list(named_tensors(Wrapper())) == [f"model.{name}" for name in names]


@pytest.mark.parametrize("parts", [(BATCH,), (BATCH, 2), (BATCH, 2, PAST), (BATCH, PAST, SEQUENCE, 3)])
def test_sums_are_folded_from_the_left_and_every_step_knows_its_size(parts: tuple[object, ...]) -> None:
    graph = fx.Graph()

    def part(size: object) -> fx.Node | int:
        if isinstance(size, int):
            return size
        node = graph.placeholder(str(size))
        node.meta["value"] = size
        return node

    last = fold_left(graph, operator.add, list(map(part, parts)), sympy.Add)
    assert last.meta["value"] == sum(parts)  # type: ignore[call-overload]
    sums = [n for n in graph.nodes if n.op == "call_function"]
    assert [n.meta["value"] for n in sums] == [sum(parts[:count]) for count in range(2, len(parts) + 1)]  # type: ignore[call-overload]
