"""The recurrence of linear attention: heads and both sizes of the state pass through, key channels are summed over."""

from torch import fx

from graphprune.axes.inference import Axes, Call, NodeAxes, Rule
from graphprune.axes.rules.attention import lock_static


def linear_recurrence(call: Call) -> NodeAxes:
    """`query`, `key` [b, h, t, k], `value` [b, h, t, v], `decay` [b, h, t, k or 1, v or 1], `state` [b, h, k, v],
    `beta` [b, h, t]; returns outputs [b, h, t, v] and the state.

    A channel whose keys and queries are zero leaves no trace in the outputs; one whose values are zero gives zeros.
    """
    query, key, value, state = (call.axes(call[name]) for name in ("query", "key", "value", "state"))
    call.unify_all(query, key)
    call.unify_all(key[:3], value[:3])
    call.unify_all(state, (*key[:2], key[3], value[3]))
    broadcast(call, call["decay"], (*key, value[3]))
    lock_static(call, (key[2],), "accumulated in order")
    if call["beta"] is not None:
        broadcast(call, call["beta"], key[:3])
    return value, state


def broadcast(call: Call, operand: fx.Node, axes: Axes) -> None:
    """Relate an operand's axes to these, but for its dimensions of size one."""
    for size, own, axis in zip(call.shape(operand), call.axes(operand), axes, strict=True):
        if size != 1 or call.algebra.size(axis) == 1:
            call.unify(own, axis)


RULES = {"graphprune.linear_recurrence": Rule(linear_recurrence)}
