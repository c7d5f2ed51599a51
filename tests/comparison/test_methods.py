"""Rows by name, by file, and put together from parts."""

from pathlib import Path

import pytest

from graphprune.comparison.methods import Method, parse_method, parse_methods, split_parts
from graphprune.errors import UsageError


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("taylor", Method("taylor", "taylor")),
        ("adapt-pruner", Method("adapt-pruner", "adapt-pruner")),
        ("mine = adapt-pruner", Method("mine", "adapt-pruner")),
        (
            "adapt-pruner+prune.steps=5",
            Method("adapt-pruner+prune.steps=5", "adapt-pruner", settings=("prune.steps=5",)),
        ),
        (
            "ls 5=adapt-pruner+prune.steps=5+stages=2",
            Method("ls 5", "adapt-pruner", settings=("prune.steps=5", "stages=2")),
        ),
        ("magnitude", Method("magnitude", "taylor", "magnitude", "global", "none")),
        (
            "x=taylor{order=2,aggregate=vector}+uniform+bias",
            Method("x", "taylor", "taylor{order=2,aggregate=vector}", "uniform", "bias"),
        ),
        (
            "obs+adaptive{amplitude=0.6}",
            Method("obs+adaptive{amplitude=0.6}", "taylor", "obs", "adaptive{amplitude=0.6}", "none"),
        ),
        (
            "b=magnitude+uniform+prune.uniform=true",
            Method("b", "taylor", "magnitude", "uniform", "none", ("prune.uniform=true",)),
        ),
    ],
)
def test_a_row_is_a_recipe_or_parts(text: str, method: Method) -> None:
    assert parse_method(text) == method


def test_the_file_of_a_recipe_is_called_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("name: my method\nprune: {importance: magnitude}\n")
    assert parse_method(str(path)) == Method("my method", str(path))
    with pytest.raises(UsageError, match="two methods are called 'my method'"):
        parse_methods([str(path), f"{tmp_path}/./some.yaml"])


def test_parts_stand_between_pluses_outside_braces() -> None:
    assert split_parts("a{b='x',c=[1+2]} + d+e") == ["a{b='x',c=[1+2]}", "d", "e"]


def test_a_name_is_not_longer_than_a_table_has_room_for() -> None:
    with pytest.raises(UsageError, match="longer than 60 letters"):
        parse_method(f"{'n' * 61}=taylor")
