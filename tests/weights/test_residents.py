"""Residents: never more bytes than the budget, only what was asked for, the next read while one is computed with."""

import json
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphprune.errors import InvariantError
from graphprune.weights.expectation import Expectation
from graphprune.weights.load_log import LoadLog
from graphprune.weights.residents import Origin, Piece, Residents

BYTES = 400


def origins(stacks: int = 4, experts: int = 4, gate: threading.Event | None = None) -> list[Origin]:
    """Stacks, two a layer, whose experts are their own numbers."""

    def origin(stack: int) -> Origin:
        def read(expert: int) -> Tensor:
            if gate is not None:
                assert gate.wait(10)
            return torch.full((100,), float(10 * stack + expert))

        return Origin(f"s{stack}", f"layer{stack // 2}", experts, BYTES, read, lambda expert: None)

    return [origin(stack) for stack in range(stacks)]


def forward(residents: Residents, asked: list[list[int]]) -> None:
    for stack, experts in enumerate(asked):
        for expert, weight in residents.visit(stack, experts):
            assert float(weight[0]) == 10 * stack + expert
            assert residents.used <= residents.budget


@pytest.mark.parametrize("pieces", [1, 2, 3, 5, 9, 16])
@pytest.mark.parametrize("ahead", [True, False])
def test_the_budget_holds_whatever_is_asked_for(pieces: int, ahead: bool) -> None:
    residents = Residents(origins(), pieces * BYTES, LoadLog(), ahead)
    generator = torch.Generator().manual_seed(pieces)
    for _ in range(30):
        picks = [torch.randperm(4, generator=generator)[:2].tolist() for _ in range(2)]
        forward(residents, [picks[0], picks[0], picks[1], picks[1]])
    residents.close()
    loads = residents.loads()
    assert loads.peak <= pieces * BYTES
    assert loads.visits == 30 * 8
    assert loads.loads - loads.guessed <= loads.visits - loads.found + loads.guessed + loads.visits
    if pieces == 16:
        assert loads.loads <= 16, "what fits is read once"


def test_tokens_of_one_expert_load_one_expert() -> None:
    residents = Residents(origins(), 16 * BYTES, LoadLog())
    for _ in range(3):
        forward(residents, [[2], [2], [1], [1]])
    residents.close()
    assert residents.loads().loads == 4
    assert {*residents.held, *residents.coming} == {Piece(0, 2), Piece(1, 2), Piece(2, 1), Piece(3, 1)}


def test_the_next_load_begins_before_the_present_computation_ends(tmp_path: Path) -> None:
    log = LoadLog(tmp_path / "log.jsonl")
    residents = Residents(origins(), 3 * BYTES, log)
    for _, weight in residents.visit(0, [0, 1, 2, 3]):
        while not all(load.done() for load in residents.coming.values()):
            weight.sum()
    residents.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    uses = {line["expert"]: line for line in lines if line["event"] == "use" and line["stack"] == "s0"}
    ahead = [line for line in lines if line["event"] == "load" and line["why"] == "ahead" and line["stack"] == "s0"]
    assert len(ahead) == 3
    for line in ahead:
        assert line["began"] < uses[line["during"]["expert"]]["ended"]
        assert line["bytes"] == BYTES


def test_a_forward_over_everything_finds_what_fits_the_next_time() -> None:
    """The least recently used would go just before it is needed, and nothing would be found."""
    residents = Residents(origins(stacks=8), 16 * BYTES, LoadLog(), ahead=False)
    everything = [[0, 1, 2, 3]] * 8
    forward(residents, everything)
    before = residents.loads().found
    forward(residents, everything)
    assert residents.loads().found - before >= 12
    residents.close()


def test_what_is_asked_for_often_stays() -> None:
    residents = Residents(origins(stacks=2, experts=8), 6 * BYTES, LoadLog(), ahead=False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        other = int(torch.randint(2, 8, (1,), generator=generator))
        forward(residents, [[0, 1, other]] * 2)
    residents.close()
    assert residents.loads().found / residents.loads().visits > 0.6
    assert {Piece(0, 0), Piece(0, 1), Piece(1, 0), Piece(1, 1)} <= residents.held.keys()


def test_what_a_load_runs_into_is_raised_where_it_is_needed() -> None:
    def fail(expert: int) -> Tensor:
        raise OSError("disk gone")

    broken = Origin("s", "layer", 2, BYTES, fail, lambda expert: None)
    residents = Residents([broken], 2 * BYTES, LoadLog())
    with pytest.raises(OSError, match="disk gone"):
        list(residents.visit(0, [0]))
    residents.close()
    with pytest.raises(InvariantError, match="largest"):
        Residents([broken], BYTES - 1, LoadLog())


def test_an_expectation_counts_turns_and_shares() -> None:
    expectation = Expectation([2, 2])
    expectation.visited(0, [0])
    expectation.visited(1, [0, 1])
    assert expectation.wait(0, 0) == 0
    assert expectation.wait(1, 1) == 1
    assert expectation.wait(0, 1) > 100
    assert expectation.likely(0) == [0]
    for _ in range(20):
        expectation.visited(0, [1])
    assert expectation.likely(0) == [1]
