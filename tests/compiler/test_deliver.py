"""Delivery: which text a model is measured on, and which cut is compared with the masked source."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from graphprune.compiler.deliver import shape_made, source_text
from graphprune.errors import InvariantError
from graphprune.pipeline.recipes import read_recipe
from tests.support.tiny_work import tiny_work

pytestmark = pytest.mark.xdist_group("llama")


def test_where_no_token_was_cut_both_are_measured_on_one_text() -> None:
    text: Any = object()
    assert source_text(tiny_work(text=text)) is text
    assert source_text(tiny_work(text=None)) is None


def test_what_ships_is_compared_where_its_weights_are_the_source_s() -> None:
    work = tiny_work()
    assert shape_made(work) is work.graph
    assert shape_made(replace(work, recipe=None)) is work.graph


def test_where_weights_changed_the_cut_is_made_anew() -> None:
    work = tiny_work(recipe=read_recipe("adapt-pruner-ls"))
    assert work.recipe is not None
    assert work.recipe.changes_weights
    doubled = {name: torch.nn.Parameter(2 * p.detach()) for name, p in work.graph.parameters().items()}
    trained = replace(work, graph=work.graph.with_tensors(doubled))
    made = shape_made(trained)
    assert str(made) == str(trained.graph)
    name = next(iter(doubled))
    assert torch.equal(2 * made.tensors()[name], trained.graph.tensors()[name])


def test_a_result_that_its_plan_does_not_make_is_refused() -> None:
    work = tiny_work(recipe=read_recipe("adapt-pruner-ls"))
    wrong = replace(work.source, lineage=work.graph.lineage)
    with pytest.raises(InvariantError, match="not what its plan makes"):
        shape_made(replace(work, graph=wrong))
