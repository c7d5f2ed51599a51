"""Packed: how many parameters are not zero, and what all would take where zeros are packed by their patterns."""

import torch

from graphprune.ir.graph import Graph
from graphprune.weights.patterns import groups_along, kept_entries, only_patterns


def count_nonzero(graph: Graph) -> int:
    return sum(int(torch.count_nonzero(parameter.detach())) for parameter in graph.parameters().values())


def packed_bytes(graph: Graph) -> int:
    """The bytes of all parameters in the source's type, of those with a pattern what is kept and where it is.

    Of groups all places are kept, n of m, with as many bits as tell m places apart (2:4 in half precision: 36 bits for
    four weights); of shares one bit an entry says what is there.
    """
    bits = 8 * (graph.source.dtype or torch.float32).itemsize
    own, patterns = graph.parameters(), only_patterns(graph.companions)
    total = sum(p.numel() * bits for name, p in own.items() if name not in kept_entries(patterns))
    for kind, part in patterns.items():
        groups = groups_along(kind)
        for kept in part.values():
            if groups is None:
                total += int(kept.sum()) * bits + kept.numel()
            else:
                most, size = groups[0].most, groups[0].size
                total += kept.numel() // size * most * (bits + (size - 1).bit_length())
    return -(-total // 8)
