"""Editing: a plan's edits are made, kind by kind, before anything is cut."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Groups
from graphprune.edits.biases import add_biases
from graphprune.edits.centring import centre
from graphprune.edits.experts import Experts, with_experts
from graphprune.edits.growth import Grow, Prompt, grow, with_prompt
from graphprune.edits.norm_folding import fold_norms
from graphprune.edits.side_branches import SideBranch, branch_off
from graphprune.edits.stream_maps import map_streams
from graphprune.edits.untying import untie
from graphprune.errors import PlanError, UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place
from graphprune.ir.plan import Edit, Plan
from graphprune.spec import build, split_spec
from graphprune.suggestions import did_you_mean

Editing = Callable[[Graph, Sequence[str]], Graph]
# What each kind is done to: a weight, a tensor, a norm's weight, a group, a residual branch.
KINDS: Mapping[str, Editing] = {
    "bias": add_biases,
    "untie": untie,
    "fold-norm": fold_norms,
    "center": centre,
    "stream-map": map_streams,
}
# Kinds with options, written as those of a plug-in: `experts{count=4,top=2,seed=0}`.
WITH_OPTIONS: Mapping[str, tuple[type, Callable[[Graph, Sequence[str], Any], Graph]]] = {
    "experts": (Experts, with_experts),
    "grow": (Grow, grow),
    "prompt": (Prompt, with_prompt),
    "side-branch": (SideBranch, branch_off),
}


def edited(graph: Graph, edits: Sequence[Edit]) -> Graph:
    """Return the graph with these edits made in order; it computes what it did. Raises PlanError.

    Neighbours of one kind are made together.
    """
    for kind, same in groupby(edits, key=lambda edit: edit.kind):
        graph = find_editing(kind)(graph, [edit.of for edit in same])
    return graph


def find_editing(kind: str) -> Editing:
    """What makes edits of a kind. Raises PlanError for one that nobody knows, and for options that it does not have."""
    if kind in KINDS:
        return KINDS[kind]
    name = kind.partition("{")[0]
    if name not in WITH_OPTIONS:
        known = [*KINDS, *WITH_OPTIONS]
        guess = did_you_mean(name, known) or f"there are {', '.join(known)}"
        raise PlanError(f"the plan has an edit {kind[:40]!r}, which this version does not know; {guess}")
    options, function = WITH_OPTIONS[name]
    try:
        made: Any = build(options, name, split_spec(kind)[1])
    except UsageError as error:
        raise PlanError(f"the plan has an edit {kind[:60]!r}, which cannot be read: {error}") from error
    return lambda graph, names: function(graph, names, made)


def edited_groups(graph: Graph, plan: Plan) -> Groups:
    """The groups that a plan's ids name: those of the graph with the plan's edits."""
    return analyze(edited(place(graph, torch.device("meta")), plan.edits) if plan.edits else graph)
