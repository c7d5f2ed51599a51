"""Candidates: what `auto` takes for a budget, and why a named kind has nothing to cut."""

from dataclasses import replace

import pytest

from graphprune.analysis.cost import Costs, Polynomial
from graphprune.analysis.groups import Group, Groups
from graphprune.budget.budgets import Budget, reachable_minimum
from graphprune.budget.quantities import CacheBytes
from graphprune.errors import BudgetError, UsageError
from graphprune.pruning.candidates import AUTO_FLOOR, AUTO_WIDE, choose_candidates, counted, named
from tests.support.tiny_llama import group

HEADS, CHANNELS, STREAM = "attn.q.weight:0", "mlp.up.weight:0", "embed.weight:1"


def made(**locked: str) -> Groups:
    """8 heads, 40 channels and a stream of 32: heads and channels are rows of the stream; heads have a cache."""
    groups = (
        group(STREAM, "residual", 32, {("embed.weight", 1): 1}),
        group(HEADS, "attention", 8, {("attn.q.weight", 0): 1}),
        group(CHANNELS, "mlp", 40, {("mlp.up.weight", 0): 1}),
        group("embed.weight:0", "vocabulary", 100, {("embed.weight", 0): 1}),
    )
    groups = tuple(replace(g, locked=locked.get(g.kind)) for g in groups)
    terms = {(STREAM,): 100, (HEADS, STREAM): 4, (CHANNELS, STREAM): 2}
    nothing = Polynomial({})
    return Groups(groups, (), Costs(Polynomial(terms), nothing, nothing, Polynomial({(HEADS,): 16})))


def kinds(candidates: tuple[Group, ...]) -> list[str]:
    return [g.kind for g in candidates]


def reach(groups: Groups, floor: float, *wanted: str) -> int:
    return reachable_minimum(groups, groups.prunable(frozenset(wanted)), Budget(1, floor=floor))


def test_auto_takes_heads_and_channels_down_to_a_fifth() -> None:
    choice = choose_candidates(made(), ("auto",), Budget(6000), None)
    assert kinds(choice.candidates) == ["attention", "mlp"]
    assert choice.budget == Budget(6000, floor=AUTO_FLOOR)
    assert choice.notes == ()


def test_the_stream_goes_as_soon_as_half_of_the_heads_and_channels_are_not_enough() -> None:
    least = reach(made(), AUTO_WIDE, "mlp", "attention")
    assert least == 32 * (100 + 4 * 4 + 2 * 20)
    assert kinds(choose_candidates(made(), ("auto",), Budget(least), None).candidates) == ["attention", "mlp"]
    wider = choose_candidates(made(), ("auto",), Budget(least - 1), None)
    assert kinds(wider.candidates) == ["attention", "mlp", "residual"]
    note = f"MLP and attention at 50% still leave {least:,} parameters: the residual width is cut too"
    assert wider.notes == (note,)


def test_without_a_stream_to_cut_heads_and_channels_go_below_half() -> None:
    groups = made(residual="is a dimension of the output")
    half, fifth = (reach(groups, share, "mlp", "attention") for share in (AUTO_WIDE, AUTO_FLOOR))
    choice = choose_candidates(groups, ("auto",), Budget(half - 1), None)
    assert kinds(choice.candidates) == ["attention", "mlp"]
    assert choose_candidates(groups, ("auto",), Budget(fifth), None).candidates == choice.candidates
    with pytest.raises(BudgetError, match=f"{fifth:,} parameters is the least"):
        choose_candidates(groups, ("auto",), Budget(fifth - 1), None)


@pytest.mark.parametrize(("floor", "share"), [(None, 0.2), (0.0, 0.0), (0.4, 0.4), (0.8, 0.8)])
def test_a_target_out_of_reach_names_what_can_be_reached_and_the_remedies(floor: float | None, share: float) -> None:
    least = reach(made(), share, "mlp", "attention", "residual")
    assert choose_candidates(made(), ("auto",), Budget(least), floor).budget.floor == share
    message = (
        f"the target of {least - 1:,} parameters is out of reach: {least:,} parameters is the least with every MLP, "
        f"attention and the residual width at {share:.0%}; lower --floor, name more --prune kinds, or raise the target"
    )
    with pytest.raises(BudgetError) as caught:
        choose_candidates(made(), ("auto",), Budget(least - 1), floor)
    assert str(caught.value) == message


def test_only_what_the_budget_depends_on_is_a_candidate() -> None:
    cache = Budget(100, quantity=CacheBytes())
    assert kinds(counted(made(), ("attention", "mlp", "residual"), cache)) == ["attention"]
    assert kinds(choose_candidates(made(), ("auto",), cache, None).candidates) == ["attention"]
    assert counted(made(), ("vocabulary",), Budget(100)) == ()


def test_models_without_heads_and_channels_offer_their_others() -> None:
    other = group("conv.weight:0", "other", 12, {("conv.weight", 0): 1})
    nothing = Polynomial({})
    groups = Groups((other,), (), Costs(Polynomial({(other.id,): 9}), nothing, nothing, nothing))
    assert choose_candidates(groups, ("auto",), Budget(60), None).candidates == (other,)
    with pytest.raises(UsageError, match="this model has nothing that auto cuts; `graphprune inspect` shows the locks"):
        choose_candidates(replace(groups, groups=()), ("auto",), Budget(60), None)


def test_named_kinds_keep_their_order_and_have_no_floor_of_their_own() -> None:
    choice = choose_candidates(made(), ("mlp", "residual"), Budget(1), None)
    assert kinds(choice.candidates) == ["mlp", "residual"]
    assert (choice.budget.floor, choice.notes) == (0.0, ())
    assert choose_candidates(made(), ("mlp",), Budget(1), 0.3).budget.floor == 0.3


def test_a_kind_without_groups_says_why() -> None:
    locked = made(mlp="is summed up")
    with pytest.raises(UsageError) as caught:
        named(locked, ("attention", "mlp"))
    assert str(caught.value) == f"--prune mlp: every such group is locked; {CHANNELS} is summed up"
    with pytest.raises(UsageError, match="--prune experts: this model has no such groups; see `graphprune inspect`"):
        named(locked, ("experts",))


def test_groups_may_have_gone_with_the_blocks_that_were_dropped() -> None:
    assert named(made(), ("blocks",)) == ()
    assert kinds(named(made(mlp="is summed up"), ("blocks", "mlp", "attention"))) == ["attention"]


def test_a_spare_kind_joins_where_a_fifth_of_the_others_is_too_much() -> None:
    groups = made()
    least = reach(groups, AUTO_FLOOR, "mlp", "attention")
    named_alone = choose_candidates(groups, ("mlp", "attention", "residual?"), Budget(least), 0.0)
    assert kinds(named_alone.candidates) == ["mlp", "attention"]
    joined = choose_candidates(groups, ("mlp", "attention", "residual?"), Budget(least - 1), 0.0)
    assert kinds(joined.candidates) == ["mlp", "attention", "residual"]
    assert joined.budget.floor == 0.0
    assert "residual goes too" in joined.notes[0]
    # A model that has none of the kind does without.
    assert kinds(choose_candidates(groups, ("mlp", "query?"), Budget(1), 0.0).candidates) == ["mlp"]


def test_attention_is_query_heads_where_every_block_has_one_key_head() -> None:
    """So that what names `mlp,attention` goes with models of one key head too."""
    heads = replace(group("q", "query", 4, {("q", 0): 1}), block="a")
    nothing = Polynomial({})
    alone = Groups((heads,), (), Costs(Polynomial({("q",): 9}), nothing, nothing, nothing))
    assert named(alone, ("attention",)) == (heads,)
    keys = replace(group("k", "attention", 2, {("k", 0): 1}), block="b")
    assert named(replace(alone, groups=(heads, keys)), ("attention",)) == (keys,)


def test_auto_takes_query_heads_exactly_where_the_key_heads_of_a_block_are_one() -> None:
    """Two blocks: one has a key head, which is no axis, the other several."""

    def queries(name: str, block: str | None) -> Group:
        return replace(group(name, "query", 4, {(name, 0): 1}), block=block)

    def taken(*several: str | None) -> list[str]:
        heads = [replace(group(f"k{n}", "attention", 2, {(f"k{n}", 0): 1}), block=b) for n, b in enumerate(several)]
        groups = (*heads, queries("one", "a"), queries("two", "b"))
        nothing = Polynomial({})
        costs = Costs(Polynomial({(g.id,): 9 for g in groups}), nothing, nothing, nothing)
        choice = choose_candidates(Groups(groups, (), costs), ("auto",), Budget(1000), None)
        return [g.id for g in choice.candidates if g.kind == "query"]

    assert taken() == ["one", "two"]
    assert taken("a") == ["two"]
    assert taken("a", "b") == []
    assert taken(None) == [], "heads that all blocks share"


def test_where_tokens_are_what_is_left_the_error_says_how_to_have_fewer() -> None:
    groups = made()
    terms = {(STREAM, "embed.weight:0"): 1, (CHANNELS, STREAM): 2}
    costs = replace(groups.costs, parameters=Polynomial(terms))
    with pytest.raises(BudgetError, match=r"kinds, keep fewer tokens \(--vocabulary\), or raise"):
        choose_candidates(replace(groups, costs=costs), ("auto",), Budget(10), None)
