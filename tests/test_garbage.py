"""Garbage collection is put off within, and is afterwards as it was."""

import contextlib
import gc
import weakref
from collections.abc import Iterator

import pytest

from graphprune.garbage import end, importing, let_go, uncollected


@pytest.mark.parametrize("collecting", [True, False])
def test_it_is_off_within_and_afterwards_as_it_was(collecting: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        with contextlib.suppress(ZeroDivisionError), uncollected():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if was else gc.disable)()


def test_what_is_imported_is_frozen_and_collection_goes_on(frozen: None) -> None:
    before = gc.get_freeze_count()
    with importing():
        kept = [[] for _ in range(1000)]  # type: ignore[var-annotated]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(kept)


def test_a_process_ends_with_its_code_and_nothing_to_look_at(frozen: None) -> None:
    with pytest.raises(SystemExit, match="3"):
        end(3)
    assert gc.get_freeze_count() > 0


@pytest.fixture
def frozen() -> Iterator[None]:
    """What a test freezes is let go."""
    yield
    gc.unfreeze()


def test_what_refers_to_itself_is_let_go_where_collection_is_off() -> None:
    class Model:
        def __init__(self) -> None:
            self.me = self

    collecting = gc.isenabled()
    gc.disable()
    try:
        kept = weakref.ref(Model())
        assert kept() is not None
        let_go()
        assert kept() is None
    finally:
        if collecting:
            gc.enable()
