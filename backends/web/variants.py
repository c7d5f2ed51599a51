"""Variants: one graph as ONNX files with weights of several types, under the names that transformers.js asks for.

Names: `DEFAULT_DTYPE_SUFFIX_MAPPING` of huggingface/transformers.js 4.3.2, src/utils/dtypes.js.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from graphprune.budget.quantities import Precision
    from graphprune.ir.graph import Graph

Variant = Literal["fp32", "fp16", "q8", "q4", "q4f16"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
SUFFIXES: Mapping[Variant, str] = {"fp32": "", "fp16": "_fp16", "q8": "_quantized", "q4": "_q4", "q4f16": "_q4f16"}
KEPT: "Mapping[Variant, Precision]" = {"fp32": "fp32", "fp16": "half", "q8": "int8", "q4": "int4", "q4f16": "int4"}
# The precisions of onnxruntime's quantizers, one after the other.
_STEPS: Mapping[Variant, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("fp16",),
    "q8": ("int8",),
    "q4": ("int4",),
    "q4f16": ("int4", "fp16"),
}
BLOCK = 32


@dataclass(frozen=True)
class Written:
    """The paths that were written, and for each model's file the number of files with its weights, where it has any."""

    paths: tuple[Path, ...]
    chunks: Mapping[str, int]


def file_of(variant: Variant) -> str:
    return f"model{SUFFIXES[variant]}.onnx"


def write_variants(graph: "Graph", folder: Path, variants: Sequence[Variant], file_bytes: int) -> Written:
    """Write a file for each variant. Raises ExportError where a quantizer refuses the model."""
    from graphprune.backends.onnx.files import build_model, write_model
    from graphprune.backends.onnx.types import widen_types
    from graphprune.backends.ort.fusions import find_fusions
    from graphprune.backends.ort.grids import find_grids
    from graphprune.backends.ort.packing import Packing
    from graphprune.backends.web.files import write_file
    from graphprune.backends.web.last_logits import keep_last

    wide = widen_types(graph)
    model = keep_last(build_model(wide, 20, find_fusions(wide)))
    packing = Packing(BLOCK, symmetric=False, embeddings=False, grids=find_grids(graph, BLOCK))
    paths, chunks = list[Path](), dict[str, int]()
    with tempfile.TemporaryDirectory(prefix=".full-", dir=folder) as name:
        full = write_model(model, Path(name))[0]
        for variant in variants:
            with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as part:
                made = reduced(full, Path(part), _STEPS[variant], packing)
                files = write_file(made, folder / file_of(variant), variant, file_bytes)
            paths += files
            if len(files) > 1:
                chunks[file_of(variant)] = len(files) - 1
    return Written(tuple(paths), chunks)


def reduced(full: Path, folder: Path, steps: Sequence[str], packing: object) -> Path:
    """The model in fewer bits, step by step, in folders of their own."""
    from graphprune.backends.ort.packing import Packing
    from graphprune.backends.ort.reduced_precision import reduce_precision

    assert isinstance(packing, Packing)
    for step in steps:
        target = folder / step
        target.mkdir()
        full = reduce_precision(full, target, step, packing)[0]
    return full
