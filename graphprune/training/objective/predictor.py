"""The predictor: a language model as a module for rows of one length, and its head apart."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from graphprune.ir.graph import Graph
from graphprune.running.forms.causal import causal_form
from graphprune.running.forms.picked import picked_form
from graphprune.running.inputs import decoder_inputs
from graphprune.training.execution.way import Way, in_layers, run_by
from graphprune.training.objective.head import split_head

_PLAIN = Way()


@final
class Predictor(nn.Module):
    """From token ids [rows, length] to features [rows, length, ...], of which `head` makes logits, token by token.

    Features are the last hidden values where the head can be split off, else the logits, and then there is no head. The
    module shares the graph's parameters. What a graph takes beside ids is made once, for rows and length as given. A
    graph that others have changed, `plain=False`, runs as it is.
    """

    def __init__(self, graph: Graph, rows: int, length: int, plain: bool = True, way: Way = _PLAIN) -> None:
        super().__init__()
        split = split_head(graph) if plain else None
        self.graph = graph if split is None else split.body
        self.length = length
        self.inputs = decoder_inputs(graph, torch.zeros(rows, length, dtype=torch.long))
        self.place = graph.inputs.index("input_ids")
        self.head = None if split is None else split.head  # a module: its parameters are among those of this one
        self.name = "logits" if split is None else self.graph.outputs[0]
        self.layers: tuple[nn.Module, ...] = ()
        if plain and way.spread:
            self.graph, self.layers = in_layers(self.graph, self.name, way)
            self.module: nn.Module = self.graph.module
        else:
            form = causal_form(self.graph, length) if plain else graph
            # Which rows of experts go together depends on values, which what is compiled may not.
            form = picked_form(form) if plain and not way.compile else form
            self.module = run_by(form, self.name, way)
        self.output = 0 if way.spread or way.compile else self.graph.outputs.index(self.name)

    def forward(self, ids: Tensor) -> Tensor:
        known = self.inputs if ids.shape == self.inputs[self.place].shape else decoder_inputs(self.graph, ids)
        inputs = (*known[: self.place], ids, *known[self.place + 1 :])
        if ids.shape[1] == self.length:
            return self.module(*inputs)[self.output]  # type: ignore[no-any-return]
        return self.graph.module(*inputs)[self.graph.outputs.index(self.name)]  # type: ignore[no-any-return]

    def named(self, ids: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The logits and other outputs by name; of a graph with its head."""
        inputs = decoder_inputs(self.graph, ids)
        values = dict(zip(self.graph.outputs, self.graph.module(*inputs), strict=True))
        return {name: values[name] for name in ("logits", *names)}

    def logits(self, ids: Tensor) -> Tensor:
        """Logits [rows, length, words]."""
        features: Tensor = self(ids)
        return features if self.head is None else self.head(features)
