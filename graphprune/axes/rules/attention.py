"""Attention: query heads are key heads times repetitions, and positions are normalised over."""

import math

from graphprune.axes.algebra import Axis
from graphprune.axes.inference import Axes, Call, Rule


def attention(call: Call) -> Axes:
    """`query [.., H, L, E]`, `key [.., G, S, E]`, `value [.., G, S, V]`, mask `[L, S]`; returns `[.., H, L, V]`."""
    query, key, value = (call.axes(call[name]) for name in ("query", "key", "value"))
    call.unify(query[-1], key[-1])
    call.unify_all(key[:-1], value[:-1])
    call.unify_all(query[:-3], key[:-3])
    if len(query) > 2:
        relate_heads(call, query[-3], key[-3])
    if call["attn_mask"] is not None:
        relate_mask(call, (*query[:-1], key[-2]))
    lock_static(call, (key[-2],), "attention weights are normalised over it")
    return (*query[:-1], value[-1])


def relate_heads(call: Call, query: Axis, key: Axis) -> None:
    if not call["enable_gqa"]:
        if call.algebra.size(key) != 1 or call.algebra.size(query) == 1:  # one key head is broadcast to every query
            call.unify(query, key)
        return
    heads, shared = call.algebra.size(query), call.algebra.size(key)
    assert isinstance(heads, int)
    assert isinstance(shared, int)
    call.unify(query, call.algebra.product((key, call.algebra.fresh(heads // shared))))


def relate_mask(call: Call, scores: Axes) -> None:
    shape, axes = call.shape(call["attn_mask"]), call.axes(call["attn_mask"])
    for position in range(-len(shape), 0):
        if shape[position] != 1:
            call.unify(axes[position], scores[position])


def lock_static(call: Call, axes: Axes, reason: str) -> None:
    call.lock([a for a in axes if isinstance(call.algebra.size(a), int)], reason)


def softmax(call: Call) -> Axes:
    """What a softmax runs over may not shrink, unless it is chosen from: the entries left are normalised anew."""
    call.reduce(call["self"], [call["dim"]], -math.inf, "normalised over by a softmax")
    return call.axes(call["self"])


RULES = {
    "aten.scaled_dot_product_attention": Rule(attention),
    **{
        f"aten.{name}": Rule(softmax)
        for name in ("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax")
    },
}
