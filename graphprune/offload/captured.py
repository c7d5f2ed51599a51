"""Captured: the graph of a mixture whose experts are streamed, traced without any of its weights."""

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from graphprune.frontend.pretrained import capture_pretrained
from graphprune.generic.modeling_graphprune import GraphprunePreTrainedModel
from graphprune.ir.graph import Graph, Source
from graphprune.ir.serial import GraphData, from_data
from graphprune.offload.opening import Offloaded
from graphprune.offload.skeletons import put

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def capture_offloaded(offloaded: Offloaded) -> Graph:
    """The graph, whose experts are streamed as the model's are. It is not compared with the model: that reads them all.

    A checkpoint in the generic form has it already. Raises CaptureError.
    """
    model: PreTrainedModel = offloaded.model
    if isinstance(model, GraphprunePreTrainedModel):
        return stored_graph(model)
    held = dict(model.named_parameters())
    for name, parameter in held.items():  # memory that nobody writes to is none
        put(model, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), False))
    model.tie_weights()
    empty = {id(parameter): name for name, parameter in model.named_parameters()}
    try:
        graph = capture_pretrained(model, compare=False)
    finally:
        for name, parameter in held.items():
            put(model, name, parameter)
        model.tie_weights()
    return graph.with_tensors({n: held[empty[id(t)]] for n, t in graph.tensors().items() if id(t) in empty})


def stored_graph(model: Any) -> Graph:
    """The graph in the configuration of a generic checkpoint, on the model's tensors."""
    from graphprune.generic.program_graphprune import unpack

    data = cast("GraphData", unpack(model.config.graph))
    tensors: dict[str, Tensor] = {name: model.find_tensor(name) for name in data["tensors"]}
    return from_data(data, tensors, Source(data["kind"], config=model.config))
