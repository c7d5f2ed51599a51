"""Assertions of an exported program: they only say what the captured types say already."""

from graphprune.frontend.tracing.draft import Draft
from graphprune.ir.operators import opname

_ASSERTIONS = {"_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size"}


def drop_assertions(draft: Draft) -> int:
    """Erase every assertion; how many there were."""
    found = [node for node in draft.graph.nodes if opname(node) in _ASSERTIONS]
    for node in found:
        draft.graph.erase_node(node)
    return len(found)
