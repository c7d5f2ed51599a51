"""Results: the graph that a session has trained so far, and a session that goes on with a smaller one."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from graphprune.training.optimizer.moments import KINDS, Moments, carried_moments, read_moments
from graphprune.training.session import Session, assemble
from graphprune.weights.patterns import is_pattern


def build(session: Session) -> Graph:
    """The graph that the session was made for with the weights of now, and as companions their moments and what else
    training gives them.

    Patterns are kept; others, of weights that have changed, are left behind.
    """
    graph = session.graph
    old, new = graph.parameters(), dict[str, Tensor]()
    for name, tensor in session.trainee.merged().items():
        value = tensor.to(old[name].device, copy=True)
        new[name] = torch.nn.Parameter(value, old[name].requires_grad)
    result = graph.with_tensors(new)
    moments = Moments({})
    if session.learning.keeps_moments:
        moments = read_moments(session.optimizer, session.trainee.trainable)
    made = {**moments.tensors, **session.trainee.companions()}
    here = {kind: {n: t.to(old[n].device) for n, t in part.items() if n in old} for kind, part in made.items()}
    others = {
        kind: {name: t for name, t in part.items() if name not in new or is_pattern(kind)}
        for kind, part in graph.companions.items()
        if kind not in KINDS
    }
    both = {kind: {**others.get(kind, {}), **here.get(kind, {})} for kind in {**others, **here}}
    result = replace(result, companions={kind: part for kind, part in both.items() if part})
    return result.remember("moments", {"updates": moments.updates})


def compacted(session: Session, plan: Plan) -> Session:
    """The session that goes on with what a plan leaves: weights and moments are cut, all else is as it was."""
    smaller = apply(build(session), plan)
    session.accelerator.free_memory()
    begin = partial(session.learning.resumed, plan=plan)
    return assemble(session.around, smaller, begin, carried_moments(smaller))
