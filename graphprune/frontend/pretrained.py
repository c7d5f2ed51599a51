"""Live transformers models become graphs under the contract that fits, and are compared with the model."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from graphprune.errors import CaptureError, ForeignError, ParityError, foreign_code
from graphprune.frontend.blocks.capture import capture_graph
from graphprune.frontend.stepwise.derive import stepwise
from graphprune.ir.contract import fitting_length, rows_of_ids
from graphprune.ir.graph import Graph
from graphprune.models.kinds import CONTRACTS, kind_of, writes_text
from graphprune.models.modalities import count_parameters, describe_part, left_out
from graphprune.models.patches import quiet_transformers, traceable_experts, tracing_patches
from graphprune.running.comparison import compare_models, require
from graphprune.running.inputs import decoder_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_LOOKED_AT = 12  # tokens with which it is seen whether the later ones change what the earlier ones give
_ROUNDING = 1e-5  # of the spread of logits


def capture_pretrained(model: "PreTrainedModel", compare: bool = True) -> Graph:
    """Capture a live transformers model under the contract that fits it, and `compare` the graph with the model.

    A decoder whose form with a cache cannot be captured is captured without one, as an encoder is, and a note says so.
    """
    kind = kind_of(model)
    with traceable_experts(model), quiet_transformers():
        try:
            graph = capture_checked(model, kind, compare)
        except CaptureError as error:
            if kind != "decoder":
                raise
            return capture_without_cache(model, str(error), compare)
        return with_derived_cache(model, graph, "its class has none", compare) if writes_text(model) else graph


def capture_without_cache(model: "PreTrainedModel", reason: str, compare: bool) -> Graph:
    """The graph of a decoder as an encoder. Where it fails, raises the reason for which there is none with a cache."""
    try:
        graph = capture_checked(model, "encoder", compare)
    except CaptureError:
        raise CaptureError(reason) from None
    return with_derived_cache(model, graph, reason, compare)


def with_derived_cache(model: "PreTrainedModel", graph: Graph, reason: str, compare: bool) -> Graph:
    """The graph in its stepwise form where that computes what the model does on whole texts, else as it is."""
    try:
        with foreign_code():
            found = stepwise(graph)
            found = replace(found, source=replace(found.source, derived_cache=True))
            if compare and is_comparable(model):
                require_causal(graph)
                require_same(model, found, ())
        return found.note(f"its cache is derived from its graph: {reason}")
    except ForeignError as error:  # a model that was captured stays captured, whatever the attempt on it runs into
        without = f"captured without a cache, so that each new token is computed from the whole text: {reason}"
        return graph.note(f"{without}; none can be derived: {error}")


def require_causal(graph: Graph) -> None:
    """Raise CaptureError where what a token gives depends on tokens after it: no state can know them."""
    place, size = graph.outputs.index("logits"), int(graph.results["logits"].meta["value"].shape[-1])
    generator = torch.Generator().manual_seed(0)
    length = fitting_length(graph, _LOOKED_AT)
    early = length - max(1, length // 3)
    ids = torch.randint(size, (2 * rows_of_ids(graph), length), generator=generator)
    other = torch.cat([ids[:, :early], ids[:, early:].flip(0).roll(1, 1)], 1)
    with torch.no_grad():
        first, second = (graph(*decoder_inputs(graph, x))[place][:, :early] for x in (ids, other))
    if float((first - second).abs().max()) > _ROUNDING * float(first.std()):
        raise CaptureError("its tokens look at what comes after them")


def capture_checked(model: "PreTrainedModel", kind: str, compare: bool = True) -> Graph:
    """The graph of one kind. Raises CaptureError where there is none, or it does not compute what the model does."""
    generation = getattr(model, "generation_config", None)
    graph = with_own_tensors(capture_as(model, kind))
    name = type(model).__name__
    source = replace(graph.source, kind=kind, architecture=name, config=model.config, generation_config=generation)
    graph = with_part(model, replace(graph, source=source))
    if compare and (is_comparable(model) or (source.dense_rows and has_weights(model))):
        require_same(model, graph, source.dense_rows)
    return graph


def with_part(model: "PreTrainedModel", graph: Graph) -> Graph:
    """The graph with a note of what its model takes besides, where it reads no parameter that this needs."""
    kinds, whole, own = left_out(model, graph.inputs), count_parameters(model), graph.parameter_count()
    if not kinds or whole == own:
        return graph
    source = replace(graph.source, left_out=kinds, whole=whole)
    return replace(graph, source=source).note(describe_part(source.architecture, kinds, own, whole))


def with_own_tensors(graph: Graph) -> Graph:
    """The graph with copies of the tensors that its model changes when it first runs (RWKV): in the graph they stay."""
    changed = {name.removeprefix("model.") for name in graph.source.changes}
    return graph.with_tensors({n: copy.deepcopy(t) for n, t in graph.tensors().items() if n in changed})


def has_weights(model: "PreTrainedModel") -> bool:
    return not any(parameter.is_meta for parameter in model.parameters())


def is_comparable(model: "PreTrainedModel") -> bool:
    """Say whether a model's outputs are exact enough to be compared: in short types, routers choose by rounding."""
    exact = {torch.float32, torch.float64}
    return has_weights(model) and all(p.dtype in exact for p in model.parameters() if p.is_floating_point())


def require_same(model: "PreTrainedModel", graph: Graph, dense_rows: Sequence[str]) -> None:
    """Raise CaptureError where a graph does not compute what its model does, naming what differs."""
    try:
        require(compare_models(model, graph))
    except ParityError as error:
        rows = f"; it picks rows by value ({', '.join(dense_rows)})" if dense_rows else ""
        raise CaptureError(
            f"cannot capture the model: its graph does not compute what it does: {error}{rows}"
        ) from error


def capture_as(model: "PreTrainedModel", kind: str) -> Graph:
    wrapper, contract = CONTRACTS[kind](model)
    return capture_graph(wrapper, contract, "model.", lambda: tracing_patches(model))
