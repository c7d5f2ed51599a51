"""Unit inputs: what reads the units of a group, on every family, and what removing a unit leaves of a product."""

import pytest
import torch

from graphprune.errors import UsageError
from graphprune.ir.types import TensorType
from graphprune.passes.importance.activation import Activation
from graphprune.passes.importance.fluctuation import Fluctuation
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.passes.importance.wanda import Wanda
from graphprune.pruning.activations.inputs_seen import column_norms, see_inputs
from graphprune.pruning.activations.reductions import magnitudes
from graphprune.pruning.activations.unit_inputs import find_products, find_unit_inputs
from graphprune.pruning.interfaces import Importance, view
from tests.support.families import analysis, families, graph
from tests.support.seen_inputs import IDS

# Grouped queries, a tied head, fused q, k and v, experts, layer norms with biases, parallel branches, recurrence.
FAMILIES = ["llama", "gemma2", "phi3", "mixtral", "gpt2", "opt", "gpt_neox", "falcon", "falcon_h1", "qwen3_next"]
FORWARD_ONLY = (Fluctuation(), Fluctuation("wifn", False), Wanda(), Magnitude(of="columns"), Activation())


@pytest.mark.parametrize("family", families(FAMILIES))
def test_every_importance_scores_every_family(family: str) -> None:
    groups = [g for g in analysis(family).groups.prunable() if g.kind in ("mlp", "attention", "residual")]
    importance: Importance
    for importance in FORWARD_ONLY:
        scores = importance.score(view(graph(family), groups, [IDS[:3], IDS[3:]]))
        for group in groups:
            assert scores[group.id].shape == (group.units,)
            assert scores[group.id].dtype == torch.float32
            assert bool(torch.isfinite(scores[group.id]).all())
            assert float(scores[group.id].std()) > 0


def test_experts_are_read_as_stacked_products() -> None:
    groups = [g for g in analysis("mixtral").groups.prunable() if g.kind == "mlp"]
    for group in groups:
        (inputs,) = find_unit_inputs(graph("mixtral"), [group], "x")[group.id]
        assert inputs.product.weight.endswith("experts.down_proj")
        assert (inputs.product.dim, inputs.product.weight_dim) == (-2, 2)
        norms = column_norms(inputs.product, graph("mixtral").tensors(), 2)
        weight = graph("mixtral").tensors()[inputs.product.weight].detach().double()
        torch.testing.assert_close(norms, weight.square().sum(1).sqrt())
        # Two of four experts see each token.
        seen = see_inputs(graph("mixtral"), [[inputs]], [IDS])[inputs.product.node, -2]
        assert seen.tokens == 2 * IDS.numel()


def test_every_product_runs_over_as_many_inputs_as_its_weight_has() -> None:
    for family in ("llama", "gpt2", "mixtral"):
        sizes = {
            node.name: node.meta["value"].shape
            for node in graph(family).nodes
            if isinstance(node.meta.get("value"), TensorType)
        }
        products = list(find_products(graph(family)))
        assert products
        for each in products:
            assert sizes[each.node][each.dim] == graph(family).tensors()[each.weight].shape[each.weight_dim]


def test_a_group_that_nothing_reads_is_named() -> None:
    (vocabulary,) = (g for g in analysis("llama").groups.groups if g.kind == "vocabulary")
    with pytest.raises(UsageError, match=r"x can not score .*\(vocabulary\): no linear call reads it"):
        find_unit_inputs(graph("llama"), [vocabulary], "x")


def test_values_without_the_rows_of_the_batch_are_one_row() -> None:
    value = torch.arange(10.0).view(5, 2)
    torch.testing.assert_close(magnitudes(IDS, value, "mean", "l2"), value.double().mean(0).square())
