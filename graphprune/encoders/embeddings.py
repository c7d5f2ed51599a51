"""Embeddings: which outputs of a graph say what a text, or an image, means, and how they are read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from graphprune.encoders.pooling import pool, pooling_of
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.types import tensor_type
from graphprune.running.inputs import run_batch

Named = Mapping[str, Tensor]  # a batch: the inputs of the graph by name, and whatever else goes with its rows

TEXT_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_STATES, _TOWERS = "last_hidden_state", ("image_embeds", "text_embeds")


@dataclass(frozen=True)
class Embedding:
    """One output of a graph that is an embedding: its place among them, and how it is pooled over tokens, if it is."""

    name: str
    place: int
    pooling: tuple[str, ...] = ()

    def read(self, values: Sequence[Tensor], batch: Named) -> Tensor:
        """The embeddings [rows, n] of length 1, from all outputs of the graph for a batch."""
        value = values[self.place]
        if self.pooling:
            mask = batch.get("attention_mask")
            value = pool(value, torch.ones_like(value[..., 0]) if mask is None else mask.to(value.device), self.pooling)
        return functional.normalize(value.float() if value.dtype.itemsize < 4 else value, dim=-1)


def find_embeddings(graph: Graph) -> tuple[Embedding, ...]:
    """The embeddings of an encoder of texts, or of a model with a tower for images and one for texts; none of others.

    That of a text is pooled from the states of its tokens, as the folder of sentence-transformers says, by the mean
    over them where it says nothing. Those of images and texts are `image_embeds` and `text_embeds`.
    """
    if graph.source.kind != "encoder":
        return ()
    place = {name: number for number, name in enumerate(graph.outputs)}
    if all(name in place for name in _TOWERS):
        return tuple(Embedding(name, place[name]) for name in _TOWERS)
    if not is_text_encoder(graph):
        return ()
    return (Embedding(_STATES, place[_STATES], pooling_of(graph.source.files)),)


def is_text_encoder(graph: Graph) -> bool:
    """Whether a graph takes texts alone and gives a state for each of their tokens."""
    known = "input_ids" in graph.inputs and TEXT_INPUTS.issuperset(graph.inputs)
    if not known or _STATES not in graph.outputs:
        return False
    return (
        len(tensor_type(graph.results[_STATES]).shape)
        == 3
        == 1 + len(tensor_type(graph.placeholders["input_ids"]).shape)
    )


def embed(graph: Graph, embeddings: Sequence[Embedding], batches: Sequence[Named]) -> Iterator[dict[str, Tensor]]:
    """The embeddings of each batch by the names of the outputs; without gradients."""
    for batch in batches:
        with torch.no_grad():
            values = run_batch(graph, batch)
        yield {each.name: each.read(values, batch) for each in embeddings}


def require_embeddings(graph: Graph) -> tuple[Embedding, ...]:
    """The embeddings. Raises UsageError where a model has none that are known here."""
    found = find_embeddings(graph)
    if not found:
        raise UsageError(f"{graph.source.name or 'the model'} has no embeddings that are known here")
    return found
