"""Learned patterns on a GPU, or on its stand-in: nothing is left on the wrong side, losses are the processor's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from graphprune.training.options import TrainOptions
from graphprune.training.patterns.adaptive_sparse import Ast
from graphprune.training.train import train
from graphprune.weights.patterns import kept_entries
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import tiny_graph
from tests.test_gpu import stand_in_trains

__all__ = ["stand_in_trains"]
pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]
OPTIONS = TrainOptions(steps=8, rows=4, lr=3e-3, eval_every=4, save_every=4, distill=0.5)


def test_patterns_are_learned_there(device: torch.device, tmp_path: Path) -> None:
    asked = Ast(refresh=2, slorb=8)
    source = apply(tiny_graph(), Plan(edits=asked.edits(tiny_graph())))
    here, there = (
        train(source, replace(OPTIONS, device=where), Rows(), tiny_graph(), held_out(), tmp_path / name, learner=asked)
        for name, where in (("here", "cpu"), ("there", str(device)))
    )
    assert there.loss == pytest.approx(here.loss, rel=1e-3)
    assert there.held_out == pytest.approx(here.held_out, rel=1e-3)
    for name, kept in kept_entries(there.graph.companions).items():
        weight = there.graph.parameters()[name]
        assert weight.device.type == "cpu"
        assert torch.equal(weight != 0, kept)
        assert int((kept != kept_entries(here.graph.companions)[name]).sum()) <= 4
