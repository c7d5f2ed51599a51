"""Real cells in real processes: a plug-in of others is a row, and what a method cannot do is one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from graphprune.comparison.compare import compare, failures
from graphprune.comparison.options import CompareOptions
from tests.test_registry import install

__all__ = ["install"]

Options = Callable[..., CompareOptions]


@pytest.mark.slow
def test_a_plug_in_of_others_is_a_row(options: Options, site: Path) -> None:
    install(site, "graphprune-example")
    methods = ("last=first-units{reverse=true}+uniform", "none=magnitude+prune.kinds=[experts]")
    asked = options(methods=methods, targets=("80%",), keep=True)
    found = compare(asked)
    last, none = found.rows
    assert (last.method, last.state, last.best) == ("last", "ok", True)
    assert last.parameters is not None
    assert last.parameters.mean <= 0.8 * found.parameters
    assert found.methods[0].recipes[0]["prune"]["importance"] == "first-units{reverse=true}"
    assert none.state == "failed"
    assert failures(found) == (
        "1 of 3 cells failed: none: --prune experts: this model has no such groups; see `graphprune inspect`; the same "
        "command tries them again"
    )
    assert asked.out is not None
    assert [path.name for path in (asked.out / "models").iterdir()] == ["last-80-seed0-0"]
    assert (asked.out / "models" / "last-80-seed0-0" / "model.safetensors").is_file()
