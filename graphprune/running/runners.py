"""Runners: one interface to run a language model step by step, whatever form it has."""

import inspect
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor

from graphprune.errors import CaptureError
from graphprune.ir.contract import is_state, present_of
from graphprune.ir.graph import Graph
from graphprune.ir.sizes import concrete, symbol
from graphprune.ir.types import TensorType, tensor_type
from graphprune.models.caches import keeps_keys
from graphprune.models.decoder import accepts, cache_argument, probe_states
from graphprune.models.encoder import options

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


class Runner(Protocol):
    """One step of a decoder: ids, mask, positions and the last cache (None: empty) give logits and the next cache.

    Each runner has caches of its own kind, and takes what it gave.
    """

    def __call__(
        self, ids: Tensor, mask: Tensor, positions: Tensor, past: object | None, /
    ) -> tuple[Tensor, object]: ...


def graph_runner(graph: Graph, output: str = "logits") -> Runner:
    """Run a decoder graph step by step; `output` is what is given in the place of logits."""
    types: dict[str, TensorType] = {name: node.meta["value"] for name, node in graph.placeholders.items()}
    caches = [name for name in graph.inputs if is_state(name)]
    device = next(iter(graph.tensors().values())).device

    def run(ids: Tensor, mask: Tensor, positions: Tensor, past: object | None) -> tuple[Tensor, dict[str, Tensor]]:
        sizes = {"batch": len(mask), "past": 0}
        empty = {n: torch.zeros(concrete(types[n].shape, sizes), dtype=types[n].dtype) for n in caches}
        states: dict[str, Tensor] = past if isinstance(past, dict) and past else empty
        feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **states}
        outputs = dict(zip(graph.outputs, graph(*(feed[name].to(device) for name in graph.inputs)), strict=True))
        return outputs[output], {name: outputs[present_of(name)] for name in caches}

    return run


def row_axes(graph: Graph) -> dict[str, int] | None:
    """The axis of rows of each state; None where a state has none, or several, or where there is no state."""
    types = {name: tensor_type(node).shape for name, node in graph.placeholders.items() if is_state(name)}
    if not types or any(list(shape).count(symbol("batch")) != 1 for shape in types.values()):
        return None
    return {name: list(shape).index(symbol("batch")) for name, shape in types.items()}


def model_runner(model: "PreTrainedModel") -> Runner:
    """Run a transformers model step by step with a dynamic cache."""
    from transformers import DynamicCache

    accepted = inspect.signature(model.forward).parameters
    argument = str(cache_argument(model))

    def run(ids: Tensor, mask: Tensor, positions: Tensor, past: object | None) -> tuple[Tensor, object]:
        cache = DynamicCache(config=model.config) if past is None else cast("Cache", past)
        mask = mask if keeps_keys(cache) else mask[:, -ids.shape[1] :]
        feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        placed = {name: tensor.to(model.device) for name, tensor in feed.items() if name in accepted}
        output = model(**placed, **{argument: cache}, use_cache=True)
        return output.logits, output[argument]

    return run


def whole_runner(model: "PreTrainedModel") -> Runner:
    """Run a transformers model on the whole text at every step; the past are the ids so far."""
    says, masked = options(model), accepts(model, "attention_mask")

    def run(ids: Tensor, mask: Tensor, positions: Tensor, past: object | None) -> tuple[Tensor, Tensor]:
        ids = ids.to(model.device)
        whole = torch.cat([past, ids], 1) if isinstance(past, Tensor) else ids
        given = {"attention_mask": mask.to(model.device)} if masked else {}
        return model(input_ids=whole, **given, **says).logits[:, -ids.shape[1] :], whole

    return run


def runner_of(model: "PreTrainedModel") -> Runner:
    """The runner with a cache where the class has one that holds layers, else the one on the whole text."""
    try:
        if cache_argument(model) is not None:
            probe_states(model)
            return model_runner(model)
    except CaptureError:
        pass
    return whole_runner(model)
