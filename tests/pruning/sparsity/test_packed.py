"""Packed: bytes of what is packed are those of the formats, entry by entry."""

from dataclasses import replace

import pytest
import torch

from graphprune.evaluation.measures import NO_FASTER, sparse_measures
from graphprune.passes.transforms.sparsify import Sparsify
from graphprune.pipeline.passes import run_passes
from graphprune.pruning.sparsity.packed import packed_bytes
from graphprune.weights.patterns import kept_entries
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")


@pytest.mark.parametrize("pattern", ["2:4", "25%"])
def test_packed_weights_are_counted_in_the_source_type(pattern: str) -> None:
    source = tiny_graph()
    half = replace(source, source=replace(source.source, dtype=torch.bfloat16))
    sparse = run_passes(half, [Sparsify(pattern=pattern, method="magnitude")])
    size = sum(kept.numel() for kept in kept_entries(sparse.companions).values())
    bits = size * 9 if pattern == "2:4" else size * 12 + size  # of 16: 8 and 1 for two places of four; 12 and 1
    assert packed_bytes(sparse) == 2 * (source.parameter_count() - size) + bits // 8
    nonzero, packed = sparse_measures(half, sparse)
    assert nonzero.before == source.parameter_count()
    assert nonzero.after == source.parameter_count() - size * (0.5 if pattern == "2:4" else 0.25)
    assert packed.before == 2 * source.parameter_count()
    assert sparse_measures(source, source) == ()
    assert "onnxruntime" in NO_FASTER
