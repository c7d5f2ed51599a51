"""Where gates act: what calls read of plain units, what is written into an axis that norms run over."""

import pytest

from graphprune.errors import PlanError
from graphprune.gates.sites import by_rows, find_sites, parameter_of
from tests.support.families import wide

LLAMA = pytest.mark.xdist_group("llama")
MIXTRAL = pytest.mark.xdist_group("mixtral")


@LLAMA
def test_plain_units_are_scaled_once_where_they_are_read() -> None:
    base = wide("llama")
    heads = next(group for group in base.analysis.groups.prunable() if group.kind == "attention")
    (site,) = find_sites(base.analysis, heads)
    assert site.call is not None
    assert parameter_of(site.call.all_input_nodes[1]).target == "model.layers.0.self_attn.o_proj.weight"  # type: ignore[union-attr]
    assert site.by_row
    assert [(slot.name, slot.dim) for slot in site.folds] == [("model.layers.0.self_attn.o_proj.weight", 1)]
    assert sorted(set(site.owner)) == list(range(heads.units))


@LLAMA
def test_the_stream_is_scaled_where_it_is_written_and_normed() -> None:
    base = wide("llama")
    (residual,) = (group for group in base.analysis.groups.prunable() if group.kind == "residual")
    sites = find_sites(base.analysis, residual)
    assert all(site.call is None and site.by_row and site.dim == 2 for site in sites)
    folded = [slot.name.removeprefix("model.") for site in sites for slot in site.folds]
    branches = ["self_attn.o_proj", "post_attention_layernorm", "mlp.down_proj"]
    layer = ["input_layernorm", *branches]
    assert folded == [
        "embed_tokens.weight",
        *(f"layers.{i}.{name}.weight" for i in range(2) for name in layer),
        "norm.weight",
    ]


@MIXTRAL
def test_units_of_experts_are_scaled_where_they_are_read() -> None:
    base = wide("mixtral")
    mlp = next(group for group in base.analysis.groups.prunable() if group.kind == "mlp")
    (site,) = find_sites(base.analysis, mlp)
    assert [(slot.name, slot.dim) for slot in site.folds] == [("model.layers.0.mlp.experts.down_proj", 2)]


@LLAMA
def test_what_queries_and_keys_share_has_no_gate() -> None:
    base = wide("llama")
    pairs = next(g for g in base.analysis.groups.prunable() if g.id.endswith("q_proj.weight:0/head_dim"))
    with pytest.raises(PlanError, match="two computed values are summed over its units"):
        find_sites(base.analysis, pairs)
    words = next(g for g in base.analysis.groups.prunable() if g.kind == "vocabulary")
    with pytest.raises(PlanError, match="has no gate"):
        find_sites(base.analysis, words)
    assert not by_rows(base.analysis, next(iter(base.graph.module.graph.find_nodes(op="get_attr"))))
