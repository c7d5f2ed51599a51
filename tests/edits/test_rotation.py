"""Rotations: any orthogonal basis leaves the function; what treats units one by one is named."""

import pytest
import torch

from graphprune.analysis.analyse import analyze_axes
from graphprune.edits.editing import edited
from graphprune.edits.obstacles import ROTATED, Along, find_obstacle
from graphprune.edits.rotation import is_orthogonal, random_basis, rotate
from graphprune.edits.segments import segment_edits, segments
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from tests.edits.test_editing import difference
from tests.support.families import families, graph, wide

LLAMA = pytest.mark.xdist_group("llama")


def hadamard(size: int) -> torch.Tensor:
    """Sylvester's matrix, of length one: for powers of two."""
    made = torch.ones(1, 1, dtype=torch.float64)
    while len(made) < size:
        made = torch.cat([torch.cat([made, made], 1), torch.cat([made, -made], 1)])
    return made / size**0.5


@pytest.mark.parametrize("name", families(("llama", "gpt2", "falcon", "mixtral")))
def test_every_segment_takes_another_basis(name: str) -> None:
    source = wide(name).graph
    turned = whole = edited(source, segment_edits(source))
    for number, segment in enumerate(segments(whole)):
        basis = hadamard(segment.units) if number == 1 else random_basis(segment.units, number)
        turned = rotate(turned, segment.id, basis)
    assert difference(source, turned) < 1e-9
    assert str(turned) == str(whole)
    assert not any(torch.equal(t, whole.tensors()[n]) for n, t in turned.tensors().items() if "stream_map" in n)


@LLAMA
def test_a_norm_with_a_weight_and_a_gate_are_named() -> None:
    source = graph("llama")
    with pytest.raises(PlanError, match=r"embed_tokens.weight:1 cannot be rotated: mul_\w+ \(mul.Tensor\) treats"):
        rotate(source, "model.embed_tokens.weight:1", torch.eye(32))
    with pytest.raises(PlanError, match=r"gate_proj.weight:0 cannot be rotated: silu_\w+ \(silu\) treats"):
        rotate(source, "model.layers.0.mlp.gate_proj.weight:0", torch.eye(44))
    with pytest.raises(PlanError, match="is no group of this model"):
        rotate(source, "nothing:0", torch.eye(2))


@pytest.mark.xdist_group("gpt_neox")
def test_a_norm_that_takes_the_mean_away_is_named() -> None:
    folded: Graph = edited(graph("gpt_neox"), [e for e in segment_edits(graph("gpt_neox")) if e.kind == "fold-norm"])
    with pytest.raises(PlanError, match=r"cannot be rotated: layer_norm_\w+ \(layer_norm\) treats"):
        rotate(folded, "gpt_neox.embed_in.weight:1", torch.eye(32))


@LLAMA
def test_a_basis_is_orthogonal_and_fits() -> None:
    whole = edited(graph("llama"), segment_edits(graph("llama")))
    first = segments(whole)[0].id
    for basis in (torch.eye(31), torch.eye(32) * 2, torch.ones(32, 32)):
        with pytest.raises(PlanError, match="orthogonal matrix of 32 columns, which this is not"):
            rotate(whole, first, basis)
    assert is_orthogonal(random_basis(9, 3))
    assert torch.equal(random_basis(9, 3), random_basis(9, 3))
    analysis = analyze_axes(whole)
    along = Along(analysis.inference, analysis.inference.algebra.find(analysis.atoms[first]))
    assert find_obstacle(whole, along, ROTATED) is None
