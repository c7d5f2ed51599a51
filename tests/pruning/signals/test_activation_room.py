"""What backward holds is estimated well enough to say whether it fits."""

import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.ir.graph import Graph
from graphprune.pruning.signals.activation_room import handed_bytes, held_bytes, segment_ends, shelf_of, small_batches
from graphprune.running.loss import batch_loss
from graphprune.weights.stored import store
from tests.support.families import families, graph

IDS = torch.randint(61, (4, 32), generator=torch.Generator().manual_seed(0))


def stored(whole: Graph) -> Graph:
    return whole.with_tensors({name: store(each, each.dtype) for name, each in whole.parameters().items()})


@pytest.mark.parametrize("name", families(["llama", "gpt2", "falcon"]))
def test_the_estimate_is_near_what_autograd_holds(name: str) -> None:
    whole = graph(name)
    weights = {each.untyped_storage().data_ptr() for each in whole.tensors().values()}
    held: dict[int, int] = {}

    def keep(each: Tensor) -> Tensor:
        place = each.untyped_storage().data_ptr()
        if place not in weights:
            held[place] = each.untyped_storage().nbytes()
        return each

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda each: each):
        loss = batch_loss(whole, IDS)
    assert loss.requires_grad
    assert 0.7 < held_bytes(whole, IDS) / sum(held.values()) < 2.5


@pytest.mark.parametrize("name", families(["llama"]))
def test_layers_go_one_by_one_only_where_memory_asks_for_it(name: str) -> None:
    whole = graph(name)
    groups, held = analyze(whole), held_bytes(whole, IDS)
    layers = {branch.layer for branch in groups.branches}
    assert segment_ends(whole, groups, [IDS], 1) is None
    assert segment_ends(whole, groups, [IDS], 1, 1_900_000_000) is None
    much = segment_ends(whole, groups, [IDS], 1, 2_000_000_000)
    ends = segment_ends(stored(whole), groups, [IDS], held)
    assert ends is not None
    assert len(ends) == len(layers)
    assert segment_ends(stored(whole), groups, [IDS], None) == ends == much, "each layer has its share of the sums"
    assert segment_ends(stored(whole), groups, [IDS], 2 * held) is None


@pytest.mark.parametrize("name", families(["llama"]))
def test_what_is_handed_over_waits_on_the_disk_only_where_memory_asks_for_it(name: str, tmp_path: Path) -> None:
    whole = graph(name)
    ends = segment_ends(stored(whole), analyze(whole), [IDS], 1)
    assert ends is not None
    handed = handed_bytes(whole, ends, [IDS, IDS])
    assert handed == 2 * 4 * len(ends) * IDS.numel() * whole.source.config.hidden_size
    assert shelf_of(whole, ends, [IDS, IDS], 4 * handed, tmp_path) is None
    assert shelf_of(whole, ends, [IDS, IDS], 4 * handed - 1, tmp_path) == tmp_path
    assert shelf_of(whole, ends, [IDS, IDS], 1, None) == Path(tempfile.gettempdir())
    assert shelf_of(whole, ends, [IDS], None, tmp_path) is None
    assert shelf_of(whole, None, [IDS], 1, tmp_path) is None


def test_rows_are_taken_few_at_a_time() -> None:
    named = {"x": torch.zeros(3, 2)}
    parts = small_batches([torch.zeros(32, 64), torch.zeros(2, 1024), named])
    assert [tuple(part.shape) for part in parts if isinstance(part, Tensor)] == [(8, 64)] * 4 + [(1, 1024)] * 2
    assert parts[-1] is named
