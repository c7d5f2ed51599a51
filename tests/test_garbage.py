"""Garbage collection is put off within, and is afterwards as it was."""

import contextlib
import gc

import pytest

from graphprune.garbage import uncollected


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
