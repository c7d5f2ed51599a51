"""Tuning in 4 bits: adapters merge into offsets, weights stay on their grids, and a stopped training goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.verification import verify
from graphprune.passes.transforms.recover import Recover
from graphprune.pipeline.run_state import load_state, save_state
from graphprune.running.inputs import decoder_inputs
from graphprune.spec import parse_spec
from graphprune.training.grid_adapters import on_grids, sums
from graphprune.training.options import LoraOptions, TrainOptions
from graphprune.training.train import train
from graphprune.weights.grids import GRID, OFFSET, SCALE, find_grid, fit_grid
from tests.support.families import families
from tests.support.families import graph as family
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import ids, tiny_graph

LORA = LoraOptions(rank=2, alpha=8.0, block=16)
OPTIONS = TrainOptions(steps=6, rows=4, lr=1e-2, device="cpu", lora=LORA)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def untied() -> Graph:
    return family("llama")


def require_on_grid(graph: Graph, block: int = 16) -> set[str]:
    """The names of all weights with a grid, each of which lies on it to the bit."""
    for name in graph.companions[SCALE]:
        tensors = [graph.parameters()[name].detach(), *(graph.companions[kind][name] for kind in GRID)]
        # GPT-2's are [inputs, outputs]
        weight, *beside = (t.t() if name.startswith("transformer.h") else t for t in tensors)
        grid = find_grid(weight, beside, block)
        assert grid is not None
        assert torch.equal(grid.values(), weight)
    return set(graph.companions[SCALE])


@pytest.mark.parametrize("name", families(("llama", "gpt2", "qwen2")))
def test_the_merged_graph_computes_what_the_adapted_model_does(name: str) -> None:
    """And its offsets are moved by -s (B A) / scale, codes and scales staying as they were fitted."""
    source = family(name)
    trainee = on_grids(source, LORA, seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(trainee.trainable.values()):
            parameter.copy_(0.05 * draw(*parameter.shape, seed=number))
    inputs = decoder_inputs(source, torch.arange(3, 27).view(2, 12))
    merged = source.with_tensors({n: torch.nn.Parameter(t) for n, t in trainee.merged().items()})
    with torch.no_grad():
        expected, found = trainee.graph(*inputs)[0], merged(*inputs)[0]
        assert not torch.allclose(source(*inputs)[0], found, atol=1e-2)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    require_on_grid(replace(merged, companions=trainee.companions()))
    layer = next(key.removesuffix(".up") for key in trainee.trainable if key.endswith(".up"))
    transposed = name == "gpt2"
    first = source.parameters()[f"{layer}.weight"].detach()
    grid = fit_grid(first.t() if transposed else first, 16)
    up, down = (trainee.trainable[f"{layer}.{part}"].detach() for part in ("up", "down"))
    by_hand = grid.offset - LORA.alpha / LORA.rank * (up @ down) / grid.scale
    offset = trainee.companions()[OFFSET][f"{layer}.weight"]
    torch.testing.assert_close((offset.t() if transposed else offset)[:, ::16], by_hand)


def test_inputs_are_summed_by_blocks() -> None:
    x = draw(2, 3, 21)
    expected = torch.stack([x[..., :16].sum(-1), x[..., 16:].sum(-1)], -1)
    torch.testing.assert_close(sums(x, 16), expected)


@pytest.mark.xdist_group("llama")
def test_every_linear_layer_is_in_four_bits_and_nothing_else_changes() -> None:
    source = untied()
    trained = train(source, OPTIONS, Rows(vocabulary=60)).graph
    verify(trained)
    on_grid = require_on_grid(trained)
    assert "lm_head.weight" in on_grid
    assert len(on_grid) == 15
    changed = {n for n, t in trained.parameters().items() if not torch.equal(t, source.parameters()[n])}
    assert changed == on_grid
    tied = train(tiny_graph(), OPTIONS, Rows()).graph
    assert len(require_on_grid(tied)) == 14
    assert torch.equal(*(g.parameters()["model.embed_tokens.weight"] for g in (tied, tiny_graph())))


@pytest.mark.xdist_group("llama")
def test_targets_have_adapters_and_the_others_lie_on_their_grids_alone() -> None:
    options = replace(OPTIONS, lora=replace(LORA, targets=("q_proj",)))
    trained = train(tiny_graph(), options, Rows()).graph
    require_on_grid(trained)
    for name, offset in trained.companions[OFFSET].items():
        assert torch.equal(offset, offset.round()) == ("q_proj" not in name)
    with pytest.raises(UsageError, match="no linear layer z_proj"):
        train(tiny_graph(), replace(OPTIONS, lora=replace(LORA, targets=("z_proj",))), Rows())


def test_it_learns_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """A training that is stopped ends as one that is not, offsets included."""
    options = replace(OPTIONS, steps=20, lora=replace(LORA, dropout=0.2), eval_every=10, save_every=5)
    straight = train(tiny_graph(), options, Rows(), held_out=held_out(), folder=tmp_path / "straight")
    untuned = train(tiny_graph(), replace(options, steps=0), Rows(), held_out=held_out())
    assert straight.held_out is not None
    assert untuned.best_step == 0

    class Broken(Rows):
        def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
            if start == 4 * 12:
                raise KeyboardInterrupt
            return super().rows(start, count)

    with pytest.raises(KeyboardInterrupt):
        train(tiny_graph(), options, Broken(), held_out=held_out(), folder=tmp_path / "broken")
    resumed = train(tiny_graph(), options, Rows(), held_out=held_out(), folder=tmp_path / "broken")
    assert resumed.held_out == straight.held_out
    for name, tensor in straight.graph.tensors().items():
        assert torch.equal(tensor, resumed.graph.tensors()[name])
    for kind in GRID:
        for name, tensor in straight.graph.companions[kind].items():
            assert torch.equal(tensor, resumed.graph.companions[kind][name])
    assert straight.best_step > 0


def test_where_nothing_is_better_than_the_first_grid_that_stays() -> None:
    """Not the weights before they were on it."""
    good = train(tiny_graph(), TrainOptions(steps=40, rows=8, lr=1e-2, device="cpu"), Rows()).graph
    options = replace(OPTIONS, lr=3.0, steps=4, eval_every=2, divergence=1e6)
    trained = train(good, options, Rows(), held_out=held_out())
    assert trained.best_step == 0
    require_on_grid(trained.graph)
    for name, offset in trained.graph.companions[OFFSET].items():
        weight = good.parameters()[name].detach()
        assert torch.equal(trained.graph.parameters()[name], fit_grid(weight, 16).values())
        assert torch.equal(offset, offset.round())


def test_tuning_again_goes_on_from_the_grid_and_training_of_all_weights_leaves_it() -> None:
    first = train(tiny_graph(), OPTIONS, Rows()).graph
    still = train(first, replace(OPTIONS, steps=1, lr=1e-12), Rows()).graph
    for name in first.companions[SCALE]:
        assert torch.equal(first.companions[SCALE][name], still.companions[SCALE][name])
        torch.testing.assert_close(first.parameters()[name], still.parameters()[name], atol=1e-5, rtol=1e-5)
    left = train(first, replace(OPTIONS, lora=None), Rows()).graph
    assert SCALE not in left.companions
    assert "exp_avg" in left.companions


def test_the_state_of_a_run_has_the_grids(tmp_path: Path) -> None:
    source = tiny_graph()
    trained = train(source, OPTIONS, Rows()).graph
    save_state(tmp_path, 0, trained)
    loaded = load_state(tmp_path, source)
    assert loaded is not None
    assert require_on_grid(loaded[1]) == require_on_grid(trained)
    with torch.no_grad():
        inputs = decoder_inputs(source, ids(2, 10))
        assert torch.equal(loaded[1](*inputs)[0], trained(*inputs)[0])


def test_options_of_recover() -> None:
    made = parse_spec("passes", "recover{lora_block=32}")
    assert isinstance(made, Recover)
    options = made.train_options(made.place(tiny_graph(), 8, 16), 0)
    assert options.lora == LoraOptions(rank=8, block=32)
    for wrong in ("lora_block=24", "lora_block=-1", "lora_block=x"):
        with pytest.raises(UsageError, match="lora_block"):
            parse_spec("passes", f"recover{{{wrong}}}")
    assert parse_spec("passes", "recover{lora=4}").train_options(made.place(tiny_graph(), 8, 16), 0).lora.block == 0
