"""Editing: a plan's edits are made, kind by kind, before anything is cut."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import torch

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Groups
from graphprune.edits.biases import add_biases
from graphprune.edits.centring import centre
from graphprune.edits.norm_folding import fold_norms
from graphprune.edits.stream_maps import map_streams
from graphprune.edits.untying import untie
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place
from graphprune.ir.plan import Edit, Plan
from graphprune.suggestions import did_you_mean

# What each kind is done to: a weight, a tensor, a norm's weight, a group, a residual branch.
KINDS: Mapping[str, Callable[[Graph, Sequence[str]], Graph]] = {
    "bias": add_biases,
    "untie": untie,
    "fold-norm": fold_norms,
    "center": centre,
    "stream-map": map_streams,
}


def edited(graph: Graph, edits: Sequence[Edit]) -> Graph:
    """Return the graph with these edits made in order; it computes what it did. Raises PlanError.

    Neighbours of one kind are made together.
    """
    for kind, same in groupby(edits, key=lambda edit: edit.kind):
        if kind not in KINDS:
            guess = did_you_mean(kind, list(KINDS)) or f"there are {', '.join(KINDS)}"
            raise PlanError(f"the plan has an edit {kind[:40]!r}, which this version does not know; {guess}")
        graph = KINDS[kind](graph, [edit.of for edit in same])
    return graph


def edited_groups(graph: Graph, plan: Plan) -> Groups:
    """The groups that a plan's ids name: those of the graph with the plan's edits."""
    return analyze(edited(place(graph, torch.device("meta")), plan.edits) if plan.edits else graph)
