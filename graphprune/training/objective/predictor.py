"""The predictor: a language model as a module for rows of one length, and its head apart."""

from typing import final

import torch
from torch import Tensor, nn

from graphprune.ir.graph import Graph
from graphprune.running.causal import causal_form
from graphprune.running.inputs import decoder_inputs
from graphprune.training.objective.head import split_head


@final
class Predictor(nn.Module):
    """From token ids [rows, length] to features [rows, length, ...], of which `head` makes logits, token by token.

    Features are the last hidden values where the head can be split off, else the logits, and then there is no head. The
    module has the graph's parameters under their names behind `module.`. What a graph takes beside ids is made once,
    for rows and length as given. A graph that others have changed, `plain=False`, runs as it is.
    """

    def __init__(self, graph: Graph, rows: int, length: int, plain: bool = True) -> None:
        super().__init__()
        split = split_head(graph) if plain else None
        self.graph = graph if split is None else split.body
        self.length = length
        self.module = (causal_form(self.graph, length) if plain else graph).module
        self.inputs = decoder_inputs(graph, torch.zeros(rows, length, dtype=torch.long))
        self.place = graph.inputs.index("input_ids")
        self.output = 0 if split is not None else graph.outputs.index("logits")
        self.head = None if split is None else split.head  # a module: its parameters are among those of this one

    def forward(self, ids: Tensor) -> Tensor:
        known = self.inputs if ids.shape == self.inputs[self.place].shape else decoder_inputs(self.graph, ids)
        inputs = (*known[: self.place], ids, *known[self.place + 1 :])
        module = self.module if ids.shape[1] == self.length else self.graph.module
        return module(*inputs)[self.output]  # type: ignore[no-any-return]
