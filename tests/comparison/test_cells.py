"""The key of a cell: it changes with all that the result depends on, and with nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphprune.comparison.cells import CellPlan, code_hash, compile_options, plan_cells
from graphprune.comparison.compare import prepare
from graphprune.comparison.methods import parse_method
from graphprune.comparison.options import CompareOptions
from graphprune.pipeline.resolution import resolve_recipe
from tests.comparison.test_plugin import install

Options = Callable[..., CompareOptions]


def keys(options: CompareOptions) -> list[str]:
    return [plan.key for plan in prepare(options).plans]


def first(options: CompareOptions) -> CellPlan:
    """The first cell that is not the dense model's."""
    return prepare(options).plans[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": ("79%", "60%")},
        {"samples": 9},
        {"length": 17},
        {"window": 31},
        {"bos": False},
        {"stride": 16},
        {"text_bytes": 500},
        {"text_tokens": 50},
        {"settings": ("prune.steps=2",)},
        {"methods": ("obs", "taylor")},
        {"methods": ("magnitude+uniform", "taylor")},
        {"train_tokens": ("1k",)},
        {"precision": "bf16"},
        {"search": "VAL2"},
    ],
    ids=str,
)
def test_the_key_says_what_a_cell_is(options: Options, tmp_path: Path, changes: dict[str, Any]) -> None:
    other = tmp_path / "search.txt"
    other.write_text("some other words for choices " * 40)
    changes = {name: str(other) if value == "VAL2" else value for name, value in changes.items()}
    assert first(options(**changes)).key != first(options()).key


@pytest.mark.parametrize(
    "changes",
    [{"jobs": 2}, {"keep": True}, {"out": Path("elsewhere")}, {"methods": ("again=magnitude", "taylor")}],
    ids=str,
)
def test_and_not_how_it_is_run_or_called(options: Options, changes: dict[str, Any]) -> None:
    assert keys(options(**changes)) == keys(options())


def test_files_are_known_by_what_they_hold(options: Options, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "moved")
    moved = options(data=str(tmp_path / "moved" / "text.txt"))
    assert keys(moved) == keys(options())
    text = tmp_path / "moved" / "text.txt"
    text.write_text(text.read_text() + "more")
    from graphprune.comparison.cells import content

    content.cache_clear()
    assert keys(moved) != keys(options())


def test_a_recipe_file_is_known_by_its_fields(options: Options, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nsummary: some words\nprune: {importance: magnitude}\n")
    before = first(options(methods=(str(path), "taylor"))).key
    path.write_text("name: other\nprune: {importance: magnitude, steps: 1}\n")
    assert first(options(methods=(str(path), "taylor"))).key == before
    path.write_text("name: mine\nprune: {importance: magnitude, steps: 2}\n")
    assert first(options(methods=(str(path), "taylor"))).key != before


def test_a_plug_in_of_others_is_known_by_its_code(options: Options, site: Path) -> None:
    install(site, "graphprune-example")
    asked = options(methods=("first-units", "taylor"))
    before = keys(asked)
    module = site / "graphprune_example.py"
    module.write_text(module.read_text() + "\n# changed\n")
    after = keys(asked)
    assert after[1] != before[1]
    assert (after[0], after[2]) == (before[0], before[2])


def test_without_tokens_nothing_is_trained_whatever_the_recipe_says(options: Options) -> None:
    asked, method = options(settings=("recover.lr=1e-4",)), parse_method("adapt-accel")
    untrained = resolve_recipe(compile_options(asked, method, "80%", 0, 0))
    trained = resolve_recipe(compile_options(asked, method, "80%", 0, 5000))
    assert untrained.recover is None
    assert untrained.stages == trained.stages == 5
    assert trained.recover is not None
    assert (trained.recover["tokens"], trained.recover["lr"]) == (5000, 1e-4)
    plain = resolve_recipe(compile_options(asked, parse_method("magnitude"), "80%", 0, 5000))
    assert plain.recover == {"lr": 1e-4, "tokens": 5000}, "a method that does not train is recovered all the same"


def test_the_dense_model_is_one_cell_and_comes_first(options: Options, model: Path) -> None:
    asked = options(seeds=3, train_tokens=("0", "1k"))
    plans = plan_cells(asked, tuple(map(parse_method, asked.methods)), model)
    assert [plan.dense for plan in plans] == [True] + [False] * 24
    assert plans[0].title == "dense"
    assert plans[5].title == "magnitude at 80%, seed 0, 1,000 tokens"
    assert len({plan.key for plan in plans}) == 25
    assert len(code_hash()) == 16
