"""Capture by blocks gives the graph of the whole trace, node for node; what does not repeat is traced whole."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext as nullpatch
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune.frontend.blocks.capture import capture_graph, capture_repeated
from graphprune.frontend.blocks.recording import record
from graphprune.frontend.blocks.relation import NotRepeatedError
from graphprune.frontend.source import Positional, capture
from graphprune.frontend.tracing.normalise import capture_module
from graphprune.ir.graph import Graph
from graphprune.models.contract import Contract
from graphprune.models.decoder import decoder_contract, is_decoder
from graphprune.models.encoder import encoder_contract
from graphprune.models.patches import traceable_experts, tracing_patches
from tests.support import families, zoo

BLOCKS = 5


def deep(name: str) -> Any:
    """A family's model with one block more than what is traced of it; layers of two types come in turn."""
    config = copy.deepcopy(families.model(name).config)
    turns = name.startswith("gemma") or name == "qwen3_next"
    count = 4 if turns else 3
    parts: list[Any] = [config, *(getattr(config, name, None) for name in ("text_config", "vision_config"))]
    for part in parts:
        if getattr(part, "num_hidden_layers", None):
            part.num_hidden_layers = count
            types = vars(part).get("layer_types")
            if types and turns:
                part.layer_types = [*types[:2], *types[:2]]
            elif types:
                part.layer_types = [types[0]] * count
    torch.manual_seed(0)
    return type(families.model(name))(config).eval()


def require_equal(found: Graph, expected: Graph) -> None:
    """Two graphs are one: calls, arguments, types, names, scopes, tensors and their order."""
    assert str(found) == str(expected)
    assert [(n.op, n.name, str(n.target), str(n.args), str(n.kwargs), n.meta) for n in found.nodes] == [
        (n.op, n.name, str(n.target), str(n.args), str(n.kwargs), n.meta) for n in expected.nodes
    ]
    assert (found.inputs, found.outputs, found.notes) == (expected.inputs, expected.outputs, expected.notes)
    tensors, others = found.tensors(), expected.tensors()
    assert list(tensors) == list(others)
    for name, tensor in tensors.items():
        assert tensor is others[name] or (name.startswith("constants.") and torch.equal(tensor, others[name]))


@pytest.mark.parametrize("name", families.families([n for n in zoo.FAMILIES if n != "cnn"]))
def test_the_graph_is_that_of_the_whole_trace(name: str) -> None:
    model = deep(name)
    before = [(key, id(part)) for key, part in model.named_modules()]
    with traceable_experts(model):
        make: Callable[..., Any] = decoder_contract if is_decoder(model) else encoder_contract
        wrapper, contract = make(model)
        patches = partial(tracing_patches, model)
        found = capture_repeated(wrapper, contract, "model.", patches)
        assert [(key, id(part)) for key, part in model.named_modules()] == before
        require_equal(found, capture_module(wrapper, contract, "model.", patches))


def test_the_graph_computes_what_the_model_does() -> None:
    model = deep("llama")
    graph = capture(model)
    ids, places = torch.randint(61, (2, 7)), torch.arange(7).repeat(2, 1)
    past = [torch.zeros(2, 2, 0, 8)] * (len(graph.inputs) - 3)
    with torch.no_grad():
        first = graph(ids, torch.ones_like(ids), places, *past)
        torch.testing.assert_close(first[0], model(ids).logits)
        later = graph(ids[:, :1], torch.ones(2, 8, dtype=torch.long), places[:, :1] + 7, *first[1:])[0]
        torch.testing.assert_close(later, model(torch.cat([ids, ids[:, :1]], dim=1)).logits[:, -1:])


class Block(nn.Module):
    """A residual block that knows its index, makes a constant, and may be told what to add."""

    shift: Tensor

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index, self.linear, self.norm = index, nn.Linear(4, 4), nn.LayerNorm(4)
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x: Tensor, extra: Any = 0.0) -> Tensor:
        table = torch.tensor([1.0, 2.0, 3.0, 4.0])
        return x + torch.relu(self.linear(self.norm(x))) * table + self.shift + extra  # type: ignore[no-any-return]


class Blocks(nn.Module):
    """Five blocks in a row; subclasses do something else on the way."""

    head: Any
    layers: Any

    def __init__(self) -> None:
        super().__init__()
        self.head, self.layers = nn.Linear(4, 4), nn.ModuleList([Block(i) for i in range(BLOCKS)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)  # type: ignore[no-any-return]


class FromTheFirst(Blocks):
    """Every block is also given what the first one returned."""

    def forward(self, x: Tensor) -> Tensor:
        first = x = self.layers[0](x)
        for layer in self.layers[1:]:
            x = layer(x, first)
        return self.head(x + first)  # type: ignore[no-any-return]


class TwoBack(Blocks):
    """Every block is also given what the block before the last one returned."""

    def forward(self, x: Tensor) -> Tensor:
        before = x
        for layer in self.layers:
            before, x = x, layer(x, before)
        return self.head(x)  # type: ignore[no-any-return]


class Alternating(Blocks):
    """Blocks of two kinds in turn, told apart by an attribute alone."""

    def __init__(self) -> None:
        super().__init__()
        for index, layer in enumerate(self.layers):
            layer.norm.eps = 1e-5 if index % 2 else 1e-2


class Halved(Blocks):
    """What stands between the blocks belongs to none."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x) / 2
        return self.head(x)  # type: ignore[no-any-return]


class Counted(Blocks):
    """The number of blocks is a number in the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / len(self.layers)


class Indexed(Blocks):
    """Each block is told a number of its own."""

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x, 0.1 * index)
        return self.head(x)  # type: ignore[no-any-return]


class Backwards(Blocks):
    """The last block comes first."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            x = layer(x)
        return self.head(x)  # type: ignore[no-any-return]


class Twice(Blocks):
    """The last block is run a second time."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[-1](super().forward(x))  # type: ignore[no-any-return]


class Tied(Blocks):
    """Two blocks share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[3].linear.weight = self.layers[1].linear.weight


class Unequal(Blocks):
    """Every block has a buffer with values of its own."""

    def __init__(self) -> None:
        super().__init__()
        for index, layer in enumerate(self.layers):
            layer.shift.fill_(float(index))


class ReadByOthers(Blocks):
    """The weight of one block is also read outside of it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.layers[3].linear.bias  # type: ignore[no-any-return]


class Middle(Blocks):
    """A block in the middle gives part of the result."""

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return self.head(found[1] + found[-1])  # type: ignore[no-any-return]


class Remembering(Blocks):
    """Keeps what it computed for the next call."""

    table: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.arange(4.0) * 2
        return super().forward(x) + self.table  # type: ignore[no-any-return]


def both(module: nn.Module) -> tuple[nn.Module, Contract]:
    torch.manual_seed(0)
    return Positional(module.eval()), Contract({"x": torch.randn(3, 4)}, {"x": {0: "batch"}})


@pytest.mark.parametrize("kind", [Blocks, FromTheFirst, TwoBack, Alternating])
def test_plain_modules_are_continued(kind: type[Blocks]) -> None:
    wrapper, contract = both(kind())
    require_equal(
        capture_repeated(wrapper, contract, "module.", nullpatch), capture_module(wrapper, contract, "module.")
    )


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Halved, "no two blocks make the same calls one after the other"),
        (Counted, "something else outside"),
        (Indexed, "no two blocks make the same calls"),
        (Backwards, "no two blocks make the same calls"),
        (Twice, "no two blocks make the same calls"),
        (Tied, "no list of blocks has equal members that share no parameter"),
        (Unequal, "no list of blocks has equal members"),
        (ReadByOthers, "read outside its block"),
        (Middle, "something else outside"),
    ],
)
def test_what_does_not_repeat_is_traced_whole(kind: type[Blocks], reason: str) -> None:
    wrapper, contract = both(kind())
    with pytest.raises(NotRepeatedError, match=reason):
        capture_repeated(wrapper, contract, "module.", nullpatch)
    require_equal(capture_graph(wrapper, contract, "module."), capture_module(wrapper, contract, "module."))


def test_a_module_keeps_nothing_of_the_recorded_run() -> None:
    wrapper, contract = both(module := Remembering())
    attributes = dict(vars(module))
    record(wrapper, contract, [], nullpatch)
    assert vars(module) == attributes
    assert module.table is None


class Windows(nn.Module):
    """Windows overlap: the memory layout of what is computed of them depends on how long the text is."""

    def forward(self, x: Tensor) -> Tensor:
        return (nn.functional.pad(x, (3, 0)).unfold(1, 4, 1) * 2).sum(-1)


def test_sizes_that_only_a_memory_layout_depends_on_stay_free() -> None:
    contract = Contract({"x": torch.randn(2, 7)}, {"x": {0: "batch", 1: "sequence"}}, ("y",))
    module = Windows()
    graph = capture_module(module, contract)
    assert not graph.notes
    for x in (torch.randn(1, 2), torch.randn(3, 5), torch.randn(2, 40)):
        torch.testing.assert_close(graph(x)[0], module(x))


def test_blocks_with_names_of_their_own_are_traced_one_by_one() -> None:
    torch.manual_seed(0)
    parts = [(f"block-{i}", nn.Sequential(nn.Linear(6, 6), nn.ReLU())) for i in range(BLOCKS)]
    module = nn.Sequential(OrderedDict(parts)).eval()
    graph, x = capture(module, inputs={"x": torch.randn(2, 6)}), torch.randn(3, 6)
    torch.testing.assert_close(graph(x)[0], module(x))
