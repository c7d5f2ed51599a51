"""How weights are packed in 4 bits, and the nodes that read them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from onnx import NodeProto

    from graphprune.weights.grids import Grid


@final
@dataclass(frozen=True, eq=False)
class Packing:
    """How int4 packs: blocks of so many weights, with an offset unless `symmetric`, tables of `embeddings` too.

    Weights that lie on `grids`, by name, are packed as these say.
    """

    block: int
    symmetric: bool
    embeddings: bool
    grids: "Mapping[str, Grid]" = field(default_factory=dict)


def make(
    kind: str, inputs: list[str], outputs: list[str], name: str, domain: str = "", **attributes: int
) -> "NodeProto":
    from onnx import helper

    return helper.make_node(kind, inputs, outputs, name, None, domain, None, **attributes)
