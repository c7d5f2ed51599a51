"""Routing: what a training asks of routers, in the graph that it runs: that experts are given about as many tokens.

The balancing loss of a router is N sum_e f_e P_e, f_e being the share of all choices that fall on expert e of N and P_e
the mean of its probability: 1 where both are even. Source: Switch Transformers, arXiv 2101.03961, equation 4.
"""

from collections.abc import Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor, fx

from graphprune.analysis.analyse import analyze_axes
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.operators import bind, opname, remove_dead
from graphprune.training.objective.auction import assign

Routing = Literal["own", "auction"]


def routed_form(graph: Graph, balance: float, routing: Routing) -> Graph:
    """The graph whose routers learn to balance, with this weight, or have their choices made by auction.

    The graph itself where neither is asked for. Raises UsageError where there is no router, or one that chooses in
    another way, and for an auction of routers that give a token several experts.
    """
    if not balance and routing == "own":
        return graph
    asked = f"balance={balance:g}" if balance else f"routing={routing}"
    names = {call.name for call in find_routers(graph, asked)}
    fork = graph.fork()
    for call in [node for node in fork.nodes if node.name in names]:
        scores, top = bind(call)["self"], bind(call)["k"]
        if routing == "auction" and top != 1:
            raise UsageError(f"routing=auction gives each token one expert, and {call.name} {top}; take balance=0.01")
        if balance and not is_trained(call):
            raise UsageError(f"{asked} is for routers that are trained, and {call.name} is not; take routing=auction")
        with fork.module.graph.inserting_before(call):
            if balance:
                known = fork.module.graph.call_function(balanced, (scores, top, is_probability(scores), balance))
                known.meta |= scores.meta
                call.replace_input_with(scores, known)
                scores = known
            if routing == "auction":
                made = fork.module.graph.call_function(sell, (scores,))
                made.meta |= call.meta
                call.replace_all_uses_with(made)
    remove_dead(fork.module.graph)
    fork.module.recompile()
    return fork


def find_routers(graph: Graph, asked: str) -> Sequence[fx.Node]:
    """The calls that choose the best experts of each token, in graph order. Raises UsageError."""
    analysis = analyze_axes(graph)
    find = analysis.inference.algebra.find
    experts = {find(analysis.atoms[g.id]) for g in analysis.groups.groups if g.kind == "experts"}
    found = list[fx.Node]()
    for choice in analysis.inference.choices:
        if not choice.picks or experts.isdisjoint(map(find, analysis.inference.algebra.atoms(choice.axis))):
            continue
        if opname(choice.node) != "topk" or find(choice.axis) not in experts:
            raise UsageError(
                f"{asked} needs routers that pick the best of all experts, and {choice.node.name} does not"
            )
        found.append(choice.node)
    if not found:
        raise UsageError(f"{asked} is for mixtures of experts, and this model has no router; leave it out")
    return found


def is_trained(call: fx.Node) -> bool:
    """Whether anything but their number is read of the scores of the chosen experts."""
    values = [user for user in call.users if user.args[1] == 0]
    return any(opname(reader) != "ones_like" for value in values for reader in value.users)


def is_probability(scores: fx.Node) -> bool:
    """Whether what is chosen by are probabilities, or parts of one, and no logits."""
    return opname(scores) in ("softmax", "_softmax", "sigmoid")


def sell(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [tokens, 1] and experts [tokens, 1], chosen so that each expert is given as many tokens."""
    picks = assign(scores)[:, None]
    return scores.gather(-1, picks), picks


def balanced(scores: Tensor, top: int, probable: bool, weight: float) -> Tensor:
    """The scores as they are, to whose gradient that of the balancing loss of this call is added, times `weight`."""
    if not torch.is_grad_enabled():
        return scores
    return Balanced.apply(scores, top, probable, weight)  # type: ignore[no-any-return, no-untyped-call]


def balancing_loss(scores: Tensor, top: int, probable: bool) -> Tensor:
    """N sum_e f_e P_e of scores [tokens, experts], of which the best `top` are chosen."""
    experts = scores.shape[-1]
    parts = scores / scores.sum(-1, keepdim=True).clamp(min=1e-9) if probable else scores.softmax(-1)
    chosen = scores.detach().topk(top, dim=-1).indices.flatten()
    shares = torch.bincount(chosen, minlength=experts).to(parts) / len(chosen)
    return experts * (shares * parts.reshape(-1, experts).mean(0)).sum()


@final
class Balanced(torch.autograd.Function):
    """The identity, with a gradient of its own: the loss that backward begins with knows nothing of routers."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, top: int, probable: bool, weight: float) -> Tensor:
        ctx.save_for_backward(scores)
        ctx.options = top, probable, weight
        return scores.view_as(scores)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (scores,), (top, probable, weight) = ctx.saved_tensors, ctx.options
        with torch.enable_grad():
            own = scores.detach().float().requires_grad_()
            (added,) = torch.autograd.grad(weight * balancing_loss(own, top, probable), own)
        return gradient + added.to(gradient), None, None, None
