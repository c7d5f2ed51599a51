"""`graphprune inspect`: prices that a cut confirms, every group, and every lock with its reason."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from graphprune.analysis.analyse import analyze, analyze_axes
from graphprune.cli.inspection import costs_of, describe_groups, print_groups, slopes, write_page
from graphprune.cli.main import run
from graphprune.errors import PlanError, UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from tests.reporting.test_page import made
from tests.support.families import families, graph
from tests.support.tiny_llama import tiny_graph

TINY = pytest.mark.xdist_group("tiny_llama")


@TINY
def test_the_price_of_a_unit_is_what_a_cut_without_it_saves() -> None:
    source, found = tiny_graph(), analyze_axes(tiny_graph())
    prices, last = slopes(found.groups), {group.kind: group for group in found.groups.groups if group.locked is None}
    assert set(last) >= {"mlp", "attention", "residual", "vocabulary"}
    plans = {group.id: Plan({group.id: tuple(range(group.units - 1))}) for group in last.values()}
    plans |= {branch.id: Plan({}, (branch.id,)) for branch in found.groups.branches[:2]}
    for id, plan in plans.items():
        assert prices.get(id, 0) == source.parameter_count() - apply(source, plan, found).parameter_count(), id


@TINY
def test_costs_are_those_of_the_model() -> None:
    source = tiny_graph()
    costs = costs_of(analyze(source))
    assert costs["parameters"] == source.parameter_count()
    assert costs["weight_bytes"] == sum(t.numel() * t.element_size() for t in source.tensors().values())
    assert costs["cache_bytes_per_token"] == 4 * 2 * 2 * 4 * 4, "keys and values of two layers of four heads of four"
    assert costs["macs_per_token"] > 0


@pytest.mark.parametrize("name", families(["opt"]))
def test_everything_is_in_the_description_and_all_but_the_slots_in_print(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source: Graph = graph(name)
    groups = analyze(source)
    data = json.loads(json.dumps(describe_groups("here", source, groups)))
    assert (data["model"], data["architecture"], data["kind"]) == ("here", "OPTForCausalLM", "decoder")
    assert [row["id"] for row in data["groups"]] == [group.id for group in groups.groups]
    locked = {row["id"]: row["locked"] for row in data["groups"] if row["locked"]}
    assert "picked from by computed indices" in locked["model.decoder.embed_positions.weight:0"]
    slots = [(row["id"], slot["name"], slot["dim"]) for row in data["groups"] for slot in row["slots"]]
    assert len(slots) == len(set(slots)) >= len(groups.groups)
    with pytest.raises(PlanError, match="is locked"):
        apply(source, Plan({next(iter(locked)): (0,)}))
    print_groups("here", source, groups)
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert f"here: OPTForCausalLM {source.parameter_count():,} parameters, " in printed
    for row in data["groups"]:
        free = row["locked"] is None
        assert (f"{row['id']} {row['units']:,} {row['parameters_per_unit']:,}" in printed) == free, row["id"]
    assert all(reason in printed for reason in locked.values())
    kinds = {(row["kind"], row["locked"]): row["id"] for row in reversed(data["groups"]) if row["locked"]}
    assert all(first in printed for first in kinds.values()), "the first of each reason"
    assert all(branch["id"] in printed for branch in data["branches"])


@TINY
def test_where_nothing_is_locked_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    groups = analyze(tiny_graph())
    open_ones = replace(groups, groups=tuple(group for group in groups.groups if group.locked is None))
    print_groups("tiny", tiny_graph(), open_ones)
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith("nothing is locked")
    assert "Locked" not in printed


def test_a_page_is_written_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "demo.html"
    assert run(["inspect", "demo", "--html", str(page)]) == 0
    assert "<title>demo</title>" in page.read_text()
    assert f"written to {page}" in capsys.readouterr().out
    page.write_text("mine")
    wrong = tmp_path / "wrong"
    (wrong / "graphprune").mkdir(parents=True)
    (wrong / "graphprune" / "report.json").write_text('{"schema_version": 2}')
    for line, said in (
        (["--html", str(page)], "exists; pass --overwrite"),
        (["--html", str(tmp_path)], "no file can be written at"),
        (["--html", str(tmp_path / "none" / "x.html")], "no file can be written at"),
        (["--report", str(wrong)], "--report is shown on the page of --html"),
        (["--html", str(tmp_path / "x.html"), "--report", str(wrong)], "is no report of graphprune compile"),
        (["--html", str(tmp_path / "x.html"), "--report", str(tmp_path / "none")], "no folder at"),
    ):
        assert run(["inspect", "demo", *line]) == 2
        assert said in capsys.readouterr().err
    assert page.read_text() == "mine"


@TINY
def test_a_report_of_another_model_is_refused(tmp_path: Path) -> None:
    source = tiny_graph()
    with pytest.raises(UsageError, match="none of whose groups"):
        write_page(tmp_path / "x.html", False, source, analyze(source), made())
    assert not (tmp_path / "x.html").exists()
