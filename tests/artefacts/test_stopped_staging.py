"""A run that is stopped while OUT takes its place: what is there afterwards, and what is said of it."""

from pathlib import Path

import pytest

from graphprune.artefacts import staging as module
from graphprune.artefacts.staging import place_beside, staging
from graphprune.errors import InterruptedRunError
from tests.artefacts.test_staging import fill, written


@pytest.mark.parametrize("old", [True, False])
def test_a_stop_after_the_last_step_says_that_out_is_new(
    old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clearing is interrupted: it is done all the same, and nobody is told that nothing was written."""
    out, clear, asked = tmp_path / "out", module.clear_leftovers, list[Path]()
    if old:
        written(out)

    def interrupted(place: Path) -> None:
        asked.append(place)
        if len(asked) == 2:  # the first is at the beginning
            raise KeyboardInterrupt
        clear(place)

    monkeypatch.setattr(module, "clear_leftovers", interrupted)
    with pytest.raises(InterruptedRunError, match="complete before: it is new and whole"), staging(out, True) as folder:
        fill(folder)
    assert (out / "model").read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


def test_what_a_killed_run_had_moved_aside_is_not_new(tmp_path: Path) -> None:
    old = written(tmp_path / "out")
    (place := place_beside(old)).mkdir()
    old.rename(place / "old")
    with pytest.raises(KeyboardInterrupt), staging(old, True):
        raise KeyboardInterrupt
    assert (old / "model").read_text() == "old"


def test_a_stop_before_is_none_of_the_kind(tmp_path: Path) -> None:
    out = written(tmp_path / "out")

    def stopped() -> None:
        with staging(out, True) as folder:
            fill(folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert (out / "model").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]
