"""`graphprune list`: every plug-in with what it does and its options, and one that is broken says so in its place."""

import json
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from graphprune import registry
from graphprune.cli.listing import KINDS, describe, list_command, list_methods
from graphprune.errors import UsageError
from graphprune.pipeline.recipes import read_recipe, shipped

Capture = pytest.CaptureFixture[str]


def listed(capsys: Capture, kind: str | None = None) -> dict[str, Any]:
    list_command(kind, as_json=True)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_all_kinds_are_listed_with_all_that_is_installed(capsys: Capture) -> None:
    found = listed(capsys)
    assert tuple(found) == KINDS
    for kind in registry.PLUGIN_KINDS:
        assert tuple(row["name"] for row in found[kind]) == registry.names(kind)
    assert [row["name"] for row in found["methods"]] == list(shipped())
    for row in (row for rows in found.values() for row in rows):
        assert row["does"], row
        assert "\n" not in row["does"], row
        assert not row["does"].startswith("error"), row


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_is_what_it_is_among_all(kind: str, capsys: Capture) -> None:
    assert listed(capsys, kind) == {kind: listed(capsys)[kind]}


def test_a_method_is_listed_as_its_recipe_says() -> None:
    for row in list_methods():
        recipe = read_recipe(row["name"])
        assert (row["does"], row["source"]) == (recipe.summary, recipe.source)


def test_the_table_has_what_json_has(capsys: Capture) -> None:
    rows = listed(capsys, "allocation")["allocation"]
    list_command("allocation")
    printed = capsys.readouterr().out
    assert all(row["name"] in printed for row in rows)
    assert "axis_rules" not in printed


def test_a_plugin_that_cannot_be_imported_hides_no_other(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def points(group: str, name: str | None = None) -> list[EntryPoint]:
        made = [
            EntryPoint("broken", "graphprune_no_such_module:Thing", group),
            EntryPoint("whole", "graphprune.passes.importance.magnitude:Magnitude", group),
        ]
        return [point for point in made if name in (None, point.name)] if group == "graphprune.importance" else []

    monkeypatch.setattr(registry, "entry_points", points)
    broken, whole = listed(capsys, "importance")["importance"]
    assert broken["name"] == "broken"
    assert broken["does"].startswith("error: ")
    assert "No module named 'graphprune_no_such_module'" in broken["does"]
    assert whole["does"] == describe("importance", "whole")["does"] != ""
    list_command("allocation")
    assert capsys.readouterr().out == "none is installed\n"


def test_rules_are_described_by_the_operators_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda kind, name: {"aten.one": None, "aten.two": None})
    assert describe("axis_rules", "mine") == {"name": "mine", "does": "rules for aten.one, aten.two", "options": ""}


def test_a_kind_that_is_none_is_refused_with_the_near_one() -> None:
    with pytest.raises(UsageError, match="list does not know 'backend'; did you mean backends\\?"):
        list_command("backend")
