"""Costs: polynomials over widths against what is counted on the rewritten graph and by torch's own counter."""

import itertools
import math
import random

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from graphprune.analysis.analyse import analyze
from graphprune.analysis.cost import Polynomial
from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.analysis.polynomials import AxisSizes, Terms, multiply, presence, scale, weight_of
from graphprune.axes.algebra import Algebra
from graphprune.ir.contract import is_state
from graphprune.ir.graph import Graph
from graphprune.ir.operators import opname
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from graphprune.rewriting.widths import Widths
from tests.support.families import analysis, families, graph
from tests.support.one_call import bare
from tests.support.oracle import SETTINGS, example, random_keep

FAMILIES = families(["llama", "gpt2", "mixtral", "cnn", "bert"])


def cut(name: str) -> tuple[Graph, dict[str, int]]:
    """A family's model under a random plan, and the value of every variable of its costs then.

    A branch is dropped but for the image model, whose costs go on to count the buffers of the norm in its branch.
    """
    groups, rng = analysis(name).groups, random.Random(7)
    gone = () if name == "cnn" else (groups.branches[-1].id,)
    plan = Plan({g.id: random_keep(g, rng) for g in groups.prunable()}, gone)
    return apply(graph(name), plan), {**groups.sizes(), **plan.widths(), **dict.fromkeys(gone, 0)}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cut_model_holds_what_its_costs_said(name: str) -> None:
    small, sizes = cut(name)
    costs = analysis(name).groups.costs
    tensors = {id(tensor): tensor for tensor in small.tensors().values()}.values()
    assert costs.parameters(sizes) == small.parameter_count()
    assert costs.weight_bytes(sizes) == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("name", FAMILIES)
def test_costs_are_the_same_from_before_and_after_a_cut(name: str) -> None:
    """The polynomials of the cut model at its own widths give what those of the whole one gave at these."""
    small, sizes = cut(name)
    before, after = analysis(name).groups.costs, analyze(small)
    own = after.sizes()
    for kind in ("parameters", "weight_bytes", "macs_per_token", "cache_bytes_per_token"):
        assert getattr(before, kind)(sizes) == getattr(after.costs, kind)(own), kind
    for kind in ("matrices", "outputs", "tables", "rows", "others", "buffer_bytes"):
        assert getattr(before.storage, kind)(sizes) == getattr(after.costs.storage, kind)(own), kind


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_stored_as_matrices_tables_or_others(name: str) -> None:
    groups = analysis(name).groups
    sizes, storage = groups.sizes(), groups.costs.storage
    parts = (storage.matrices, storage.tables, storage.others)
    assert sum(part(sizes) for part in parts) == groups.costs.parameters(sizes)
    linear = {call.weight for call in find_linear_calls(graph(name), shared=True)}
    tables = {str(n.args[0].target) for n in graph(name).nodes if opname(n) == "embedding"}  # type: ignore[union-attr]
    parameters = graph(name).parameters()
    count = sum(parameters[n].numel() for n in linear - tables)
    assert storage.matrices(sizes) == count
    assert storage.rows(sizes) == sum(len(parameters[n]) for n in tables & set(parameters))
    assert storage.operators == sum(node.op == "call_function" for node in graph(name).nodes)


@pytest.mark.xdist_group("llama")
def test_multiplications_of_a_token_are_those_of_its_products_with_weights() -> None:
    counted = flops(graph("llama"), "mm", "addmm")
    batch, sequence = SETTINGS[0]["batch"], SETTINGS[0]["sequence"]
    groups = analysis("llama").groups
    assert counted == 2 * batch * sequence * groups.costs.macs_per_token(groups.sizes())


@pytest.mark.xdist_group("cnn")
def test_multiplications_of_an_image_are_those_of_all_its_places() -> None:
    """Convolutions with groups too."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        graph("cnn")(torch.randn(1, 3, 8, 8))
    groups = analysis("cnn").groups
    assert counter.get_total_flops() == 2 * groups.costs.macs_per_token(groups.sizes())


def flops(source: Graph, *names: str) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        source(*example(source, SETTINGS[0]))
    return sum(n for op, n in counter.get_flop_counts()["Global"].items() if op._qualified_op_name[6:] in names)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", families(["llama", "mamba"]))
def test_a_token_takes_what_growing_states_hold_of_it(name: str) -> None:
    """A cache of one token more is that much larger; states of a fixed size do not count."""
    groups, placeholders = analysis(name).groups, graph(name).placeholders
    growing = [node for entry, node in placeholders.items() if is_state(entry) and entry.endswith(("key", "value"))]
    size = sum(math.prod(s for s in node.meta["value"].shape if isinstance(s, int)) * 4 for node in growing)
    assert groups.costs.cache_bytes_per_token(groups.sizes()) == size
    assert (size > 0) == (name == "llama")


@pytest.mark.parametrize("branches", [(), ("a",), ("a", "b"), ("a", "b", "c")])
def test_a_parameter_is_there_while_any_of_its_branches_is(branches: tuple[str, ...]) -> None:
    there = Polynomial(presence(branches))
    for values in itertools.product((0, 1), repeat=len(branches)):
        assert there(dict(zip(branches, values, strict=True))) == (max(values) if branches else 1)


POLYNOMIALS = st.dictionaries(
    st.lists(st.sampled_from("xyz"), max_size=3).map(lambda names: tuple(sorted(names))), st.integers(-3, 3), max_size=4
)


@given(POLYNOMIALS, POLYNOMIALS, st.integers(-3, 3), st.lists(st.integers(0, 5), min_size=3, max_size=3))
def test_products_of_polynomials_have_the_product_of_their_values(
    left: dict[tuple[str, ...], int], right: dict[tuple[str, ...], int], factor: int, values: list[int]
) -> None:
    at = dict(zip("xyz", values, strict=True))
    product = Polynomial(multiply(Terms(left), Terms(right)))
    assert product(at) == Polynomial(left)(at) * Polynomial(right)(at)
    assert Polynomial(scale(Terms(left), factor))(at) == factor * Polynomial(left)(at)


def test_the_size_of_an_axis_is_that_of_its_parts_and_factors() -> None:
    """Against the widths that a cut gives."""
    algebra = Algebra()
    heads, size, gate, locked = (algebra.fresh(n) for n in (4, 6, 5, 3))
    whole = algebra.concat((algebra.product((heads, size)), gate, algebra.product((heads, locked))))
    inference = bare(algebra)
    terms = AxisSizes(inference, {heads: "heads", size: "size", gate: "gate"}).product([whole, heads])
    assert dict(terms) == {("heads", "heads", "size"): 1, ("gate", "heads"): 1, ("heads", "heads"): 3}
    for widths in itertools.product((1, 4), (2, 6), (3, 5)):
        kept = {
            a: numpy.arange(int(str(algebra.size(a)))) < n for a, n in zip((heads, size, gate), widths, strict=True)
        }
        at = dict(zip(("heads", "size", "gate"), widths, strict=True))
        cut_to = Widths(inference, kept)
        assert Polynomial(terms)(at) == int(cut_to.mask(whole).sum()) * int(cut_to.mask(heads).sum())


@pytest.mark.xdist_group("llama")
def test_only_contractions_have_a_weight_that_they_multiply_with() -> None:
    found = {str(w.target) for w in map(weight_of, graph("llama").nodes) if w is not None}
    parameters = graph("llama").parameters()
    matrices = {name for name, p in parameters.items() if p.ndim == 2} - {"model.embed_tokens.weight"}
    assert found == matrices
