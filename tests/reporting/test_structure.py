"""inspect --html: every group, branch and lock of a model on one page that fetches and runs nothing."""

import html
import math
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Groups
from graphprune.cli.inspection import costs_of, slopes
from graphprune.reporting.charts import NARROW, WIDE
from graphprune.reporting.schema import Report
from graphprune.reporting.structure import Structure, read_structure, sensitivities
from graphprune.reporting.structure_charts import draw_layer, draw_levels, draw_stacks, words_of
from graphprune.reporting.structure_page import stacks, structure_page
from tests.reporting.test_page import made
from tests.support.families import families, graph

NAMES = families(["llama", "opt", "gpt_neox"])


def structure(name: str, report: Report | None = None) -> tuple[Groups, Structure]:
    source = graph(name)
    groups = analyze(source)
    return groups, read_structure(name, source.source.architecture, groups, costs_of(groups), slopes(groups), report)


@pytest.mark.parametrize("name", NAMES)
def test_every_group_and_every_parameter_is_on_the_page_once(name: str) -> None:
    groups, found = structure(name)
    assert sorted(bar.id for _, bar in found.bars()) == sorted(group.id for group in groups.groups)
    assert [b.id for layer in found.layers for b in layer.branches] == [branch.id for branch in groups.branches]
    held = sum(number for _, parts in stacks(found) for number, _ in parts)
    assert held == costs_of(groups)["parameters"]
    assert found.outside > 0
    page = html.unescape(structure_page(found))
    for group in groups.groups:
        assert all(f"{slot.name}:{slot.dim}" in page for slot in group.slots if group.block), group.id
        assert group.locked is None or group.locked in page
    assert all(branch.id in page for branch in groups.branches)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_fetches_and_runs_nothing_and_its_pictures_are_whole(name: str) -> None:
    page = structure_page(structure(name)[1])
    assert not re.search(r"<script|<link|https?://|@import|url\(| on\w+=|src=", page)
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(picture)
    assert page.count('<svg class="wide"') == page.count('<svg class="narrow"') > 2
    assert "prefers-color-scheme: dark" in page
    assert "How sensitive" not in page


def test_layers_that_are_alike_are_closed() -> None:
    _, found = structure("llama")
    assert [layer.alike for layer in found.layers] == [False, True]
    page = structure_page(found)
    assert page.count("<details open>") == 1
    assert "as the one before: " in page


def test_a_report_shows_what_was_cut_and_how_sensitive_each_layer_is() -> None:
    groups, plain = structure("llama")
    first, second = (g for g in groups.groups if g.kind == "mlp")
    importance = {first.id: [1.0, math.nan, 3.0], second.id: [4.0, 4.0], "gone": [1.0]}
    widths = [{"group": first.id, "kind": "mlp", "block": first.block, "before": first.units, "after": 5}]
    _, found = structure("llama", made(importance=importance, widths=widths))
    assert dict(sensitivities(found)) == {"mlp": [(first.block, 0.5), (second.block, 1.0)]}
    page = structure_page(found)
    assert f"5 of {first.units}" in page
    assert "How sensitive each layer is" in page
    assert list(sensitivities(plain)) == []


def test_a_branch_that_was_dropped_says_so() -> None:
    groups, _ = structure("llama")
    gone = groups.branches[1]
    _, found = structure("llama", made(importance={}, widths=[], dropped=[gone.id]))
    branches = {branch.id: branch for layer in found.layers for branch in layer.branches}
    assert {name for name, branch in branches.items() if branch.dropped} == {gone.id}
    assert all(bar.left == 0 for bar in branches[gone.id].bars)
    assert structure_page(found).count("dropped whole") == 2, "wide and narrow"


def test_scores_below_nothing_and_all_the_same_have_a_place() -> None:
    groups, _ = structure("llama")
    first, second = (g for g in groups.groups if g.kind == "mlp")
    shares = {}
    for low, high in ((-1.0, 1.0), (0.0, 0.0), (-2.0, -2.0)):
        report = made(importance={first.id: [low], second.id: [high]}, widths=[])
        shares[low, high] = [share for _, rows in sensitivities(structure("llama", report)[1]) for _, share in rows]
    assert shares == {(-1.0, 1.0): [0.0, 1.0], (0.0, 0.0): [0.0, 0.0], (-2.0, -2.0): [0.0, 0.0]}


def test_what_comes_from_outside_is_escaped() -> None:
    evil = '<script>alert("x")</script>'
    _, found = structure("opt")
    layer = found.layers[0]
    branch = layer.branches[0]
    bar = replace(branch.bars[0], id=evil, locked=evil, slots=(evil,))
    bad = replace(layer, branches=(replace(branch, id=evil, bars=(bar,)),))
    page = structure_page(replace(found, model=evil, architecture=evil, layers=(bad,), across=(bar,)))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 6


@pytest.mark.parametrize("frame", [WIDE, NARROW])
def test_nothing_is_drawn_outside_of_its_frame(frame: Any) -> None:
    _, found = structure("opt")
    pictures = [draw_layer(layer, frame) for layer in found.layers]
    pictures += [draw_stacks(list(stacks(found)), frame), draw_levels([("a", 0.0), ("b" * 90, 1.0)], frame)]
    for picture in pictures:
        for rect in ElementTree.fromstring(picture).iter("rect"):
            edges = float(rect.get("x", 0)) + float(rect.get("width", 0))
            assert 0 <= float(rect.get("x", 0)) <= edges <= frame.width
    assert (words_of(1000, 1000), words_of(1000, 3)) == ("1,000", "3 of 1,000")
