"""Contract names: the inputs and outputs of a graph by name, states among them, and what they say of the model."""

from dataclasses import dataclass
from typing import final

import torch

from graphprune.context import fitting, stated_context
from graphprune.ir.graph import Graph
from graphprune.ir.types import tensor_type

PREFIX, PRESENT = "past_key_values.", "present."


@final
@dataclass(frozen=True)
class State:
    """One tensor that a layer keeps: `part` is `key`, `value`, `indexer`, `conv` or `recurrent`, the last two with a
    number where a layer has several; `shape` names `batch` and `past`."""

    layer: int
    part: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.layer}.{self.part}"

    @property
    def present(self) -> str:
        return f"{PRESENT}{self.layer}.{self.part}"

    @property
    def dynamic(self) -> dict[int, str]:
        return {dim: size for dim, size in enumerate(self.shape) if isinstance(size, str)}


def rows_of_ids(graph: Graph) -> int:
    """How many rows of token ids one example has: 1, or the number of streams of codes that sound is told in."""
    rows = graph.placeholders["input_ids"].meta["value"].shape[0] if "input_ids" in graph.inputs else 1
    return 1 if isinstance(rows, int) else int(rows.as_coeff_Mul()[0])


def is_state(name: str) -> bool:
    """Say whether a contract name is that of a state which goes in."""
    return name.startswith(PREFIX)


def is_present(name: str) -> bool:
    """Say whether a contract name is that of a state which comes out."""
    return name.startswith(PRESENT)


def is_attended(name: str) -> bool:
    """Say whether a contract name is that of a key or value: [batch, heads, past, size]."""
    return is_state(name) and name.endswith((".key", ".value"))


def present_of(name: str) -> str:
    """The output that continues this state."""
    return PRESENT + name.removeprefix(PREFIX)


def vocabulary_size(graph: Graph) -> int | None:
    """The number of tokens that a model knows, read off a language model's logits; None where it has none.

    Logits of other models may be of labels: what is known of their tokens is in the configuration.
    """
    if "logits" not in graph.outputs or graph.source.kind == "encoder":
        config = graph.source.config
        return getattr(config.get_text_config(), "vocab_size", None) if config is not None else None
    size = tensor_type(graph.results["logits"]).shape[-1]
    return size if isinstance(size, int) else None


def context_length(graph: Graph) -> int | None:
    """The longest sequence that the model was made for, None where its configuration does not say."""
    return stated_context(graph.source.config)


def fitting_length(graph: Graph, wanted: int) -> int:
    """The length that is wanted, no longer than the model was made for."""
    return fitting(context_length(graph), wanted)


DERIVED = "derived"  # a cache that was derived from the graph, since the model's own class has none that could be used
