"""The choice by memory: the fastest way that fits."""

import pytest
import torch

from graphprune.training.execution.choice import choose_checkpoint, free_bytes, held_bytes
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")
ROWS, LENGTH = 4, 32


def test_the_fastest_way_that_fits_is_taken() -> None:
    off, selective, full = (held_bytes(tiny_graph(), way, ROWS, LENGTH) for way in ("off", "selective", "full"))  # type: ignore[arg-type]
    assert off > selective > full > 0
    for free, wanted in ((2 * off, "off"), (2 * selective, "selective"), (selective, "full"), (0, "full")):
        assert choose_checkpoint(tiny_graph(), ROWS, LENGTH, free, spare=True) == wanted


def test_without_spare_memory_the_few_percent_are_paid() -> None:
    assert choose_checkpoint(tiny_graph(), ROWS, LENGTH, 1 << 40, spare=False) == "selective"
    assert choose_checkpoint(tiny_graph(), ROWS, LENGTH, None, spare=True) == "selective"
    assert choose_checkpoint(tiny_graph(), ROWS, LENGTH, 0, spare=False) == "full"


def test_what_is_held_grows_with_the_tokens() -> None:
    one, two = (held_bytes(tiny_graph(), "selective", rows, LENGTH) for rows in (1, 2))
    assert two == 2 * one


def test_what_is_free_is_shared_by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = free_bytes(torch.device("cpu"))
    monkeypatch.setattr("graphprune.training.execution.choice.process_count", lambda: 4)
    part = free_bytes(torch.device("cpu"))
    assert whole is None or (part is not None and part < whole / 2)
    assert free_bytes(torch.device("meta")) is None
