"""Stock widths: the counts that a configuration of the source's own architecture can say."""

import pytest

from graphprune.analysis.groups import Group
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.pruning.stock_widths import (
    allowed_counts,
    has_stock_form,
    is_expressible,
    require_stock,
    strided_counts,
    tried_counts,
    without_heads,
)
from graphprune.rewriting.apply import apply
from tests.support.families import analysis, graph

LLAMA, MIXTRAL = pytest.mark.xdist_group("llama"), pytest.mark.xdist_group("mixtral")


def members(name: str, kind: str) -> tuple[Group, ...]:
    return analysis(name).groups.prunable(frozenset({kind}))


def keeping(name: str, kept: dict[str, int]) -> Graph:
    return apply(graph(name), Plan({id: tuple(range(count)) for id, count in kept.items()}))


@MIXTRAL
def test_every_number_of_experts_and_of_heads_is_a_configuration() -> None:
    """And every width of the stream, since Mixtral says the size of its heads beside it."""
    allowed = allowed_counts(graph("mixtral"), analysis("mixtral").groups)
    assert allowed["experts"] == {1, 2, 3, 4}
    assert allowed["attention"] == allowed["query"] == {1, 2}
    assert allowed["residual"] == set(range(1, 33))
    assert "mlp" not in allowed, "channels may have any width"


@MIXTRAL
def test_what_is_allowed_is_what_the_backend_expresses_when_it_is_cut() -> None:
    experts, source = members("mixtral", "experts"), graph("mixtral")
    for count in range(1, 4):
        said = is_expressible(source, analysis("mixtral"), experts, count)
        assert said == has_stock_form(keeping("mixtral", {g.id: count for g in experts}))
    one = experts[:1]
    assert not is_expressible(source, analysis("mixtral"), one, 3), "one layer has fewer than the other"


@LLAMA
def test_the_stream_of_a_llama_without_head_size_is_a_multiple_of_its_heads() -> None:
    source, stream = graph("llama"), members("llama", "residual")
    assert is_expressible(source, analysis("llama"), stream, 28)
    assert not is_expressible(source, analysis("llama"), stream, 31)


@LLAMA
def test_widths_go_down_in_strides_of_the_first_that_can_be_said() -> None:
    source, queries = graph("llama"), members("llama", "query")
    assert strided_counts(source, analysis("llama"), queries) == {1, 2}
    assert strided_counts(source, analysis("llama"), queries[:1]) == {2}, "whole where nothing less can be said"


@LLAMA
def test_groups_of_several_widths_are_not_tried() -> None:
    sizes = members("llama", "head_dim")
    assert tried_counts(graph("llama"), analysis("llama"), sizes) == {4, 8}


@LLAMA
def test_a_model_that_no_configuration_has_is_refused_with_remedies() -> None:
    heads = members("llama", "attention")
    equal, unequal = keeping("llama", {g.id: 1 for g in heads}), keeping("llama", {heads[0].id: 1})
    require_stock(graph("llama"))
    require_stock(equal)
    assert has_stock_form(equal)
    assert not has_stock_form(unequal)
    with pytest.raises(UsageError) as caught:
        require_stock(unequal)
    assert str(caught.value) == (
        "--uniform: no configuration of this architecture has these widths; try another target, --round-to, "
        "or fewer --prune kinds"
    )


def test_every_head_can_be_kept_where_the_stream_must_suit_them() -> None:
    allowed = {kind: frozenset({1, 2, 4}) for kind in ("attention", "query", "head_dim", "experts")}
    kept = without_heads({**allowed, "residual": frozenset({8, 16})})
    assert kept == {**dict.fromkeys(allowed, frozenset({4})), "residual": {8, 16}}
