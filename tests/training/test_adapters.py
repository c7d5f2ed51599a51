"""LoRA adapters: what they change, that they merge to what was trained, and what is refused."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.ir.verification import verify
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import decoder_inputs
from graphprune.training.adapters import adapted
from graphprune.training.options import LoraOptions, TrainOptions
from graphprune.training.train import train
from tests.support.families import graph as family
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=6, rows=4, lr=3e-3, device="cpu")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pruned() -> Graph:
    groups = [g for g in analyze(tiny_graph()).groups if g.kind == "mlp"]
    return apply(tiny_graph(), Plan({g.id: tuple(range(g.units // 4)) for g in groups}))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


LORA = replace(OPTIONS, lora=LoraOptions(rank=2, alpha=8.0), lr=1e-2)


def test_lora_changes_the_layers_it_adapts_and_nothing_else() -> None:
    options = replace(LORA, lora=LoraOptions(rank=2, alpha=8.0, targets=("q_proj", "layers.0.mlp.down_proj")))
    trained = train(tiny_graph(), options, Rows()).graph
    verify(trained)
    changed = {name for name, t in trained.tensors().items() if not torch.equal(t, tiny_graph().tensors()[name])}
    assert changed == {
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
    }
    for name in changed:
        difference = (trained.tensors()[name] - tiny_graph().tensors()[name]).detach()
        assert torch.linalg.matrix_rank(difference, rtol=1e-4) <= 2
    assert list(trained.tensors()) == list(tiny_graph().tensors())
    assert not trained.companions


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_merged_graph_computes_what_the_adapted_model_does(name: str) -> None:
    source = family(name)
    trainee = adapted(source, LoraOptions(rank=3), seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(trainee.trainable.values()):
            parameter.copy_(0.1 * draw(*parameter.shape, seed=number))
    ids = torch.arange(24).view(2, 12)
    merged = source.with_tensors({n: torch.nn.Parameter(t) for n, t in trainee.merged().items()})
    inputs = decoder_inputs(source, ids)
    with torch.no_grad():
        expected, found = trainee.graph(*inputs)[0], merged(*inputs)[0]
        assert not torch.allclose(source(*inputs)[0], found, atol=1e-2)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert all("lora_" in key for key in trainee.trainable)
    assert "lm_head.weight" not in trainee.merged()


def test_lora_learns_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    options = replace(LORA, steps=20, lora=LoraOptions(rank=4, dropout=0.2), eval_every=10, save_every=5)
    straight = train(pruned(), options, Rows(), held_out=held_out(), folder=tmp_path / "straight")
    rows = rows_of(tmp_path / "straight")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.1

    class Broken(Rows):
        def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
            if start == 4 * 12:
                raise KeyboardInterrupt
            return super().rows(start, count)

    with pytest.raises(KeyboardInterrupt):
        train(pruned(), options, Broken(), held_out=held_out(), folder=tmp_path / "resumed")
    resumed = train(pruned(), options, Rows(), held_out=held_out(), folder=tmp_path / "resumed")
    left, right = resumed.graph.tensors(), straight.graph.tensors()
    assert all(torch.equal(left[name], right[name]) for name in right)
    assert resumed.held_out == straight.held_out, "dropout is off there"


def test_lora_targets_that_do_not_occur_are_refused() -> None:
    with pytest.raises(UsageError, match=r"LoRA finds no linear layer query; the layers are .*q_proj"):
        train(tiny_graph(), replace(OPTIONS, lora=LoraOptions(targets=("query",))), Rows())
    with pytest.raises(UsageError, match="the rank of LoRA is 1 or more"):
        LoraOptions(rank=0)


def test_lora_without_peft_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"pip install graphprune\[lora\]"):
        train(tiny_graph(), LORA, Rows())
