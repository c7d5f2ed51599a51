"""The schedule: what a value is computed again from, and when the last thing that needs it has run."""

import operator

from torch import fx

from graphprune.training.execution.schedule import Schedule, make_schedule


def example() -> tuple[fx.Graph, dict[str, fx.Node]]:
    """x -> product -> a -> b -> end, where `a` and `b` are computed again."""
    nodes = fx.Graph()
    x = nodes.placeholder("x")
    product = nodes.call_function(operator.mul, (x, x))
    a = nodes.call_function(operator.neg, (product,))
    b = nodes.call_function(operator.add, (a, x))
    end = nodes.call_function(operator.mul, (b, 2))
    nodes.output((end,))
    for name, node in (("product", product), ("a", a), ("b", b), ("end", end)):
        node.name = name
    return nodes, {node.name: node for node in nodes.nodes}


def schedule() -> tuple[Schedule, dict[str, fx.Node]]:
    nodes, named = example()
    return make_schedule(nodes, frozenset({"a", "b"})), named


def test_values_are_computed_again_from_what_is_kept() -> None:
    made, named = schedule()
    assert made.recomputed == {named["a"], named["b"]}
    assert made.sources == {named["a"]: (named["product"],), named["b"]: (named["product"], named["x"])}


def test_what_others_are_computed_from_stays_as_long_as_they_are_read() -> None:
    made, named = schedule()
    assert set(made.dying[named["end"]]) == {named["b"], named["product"], named["x"]}
    assert made.dying[named["b"]] == (named["a"],)
