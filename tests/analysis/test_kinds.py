"""Kinds: what an axis is by where it stands, and the branches that a parameter goes with."""

import itertools
import re

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.analysis.kinds import Kinds, channel_dimension, home_branches, names_among
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.ir.types import TensorType
from graphprune.rewriting.apply import apply
from tests.support.families import analysis, families, graph
from tests.support.zoo import DECODERS


def kinds(name: str) -> Kinds:
    return Kinds(graph(name), analysis(name).inference, analysis(name).groups.branches)


# By the last parts of the parameter that a group is named after, and the dimension.
EXPECTED = {
    "llama": {
        "embed_tokens.weight:0": "vocabulary",
        "embed_tokens.weight:1": "residual",
        "q_proj.weight:0/attention": "attention",
        "q_proj.weight:0/query": "query",
        "q_proj.weight:0/head_dim": "head_dim",
        "v_proj.weight:0/head_dim": "head_dim",
        "gate_proj.weight:0": "mlp",
    },
    "gpt2": {
        "wte.weight:0": "vocabulary",
        "wte.weight:1": "residual",
        "wpe.weight:0": "other",
        "c_attn.weight:1/attention": "attention",
        "c_attn.weight:1/head_dim": "head_dim",
        "c_attn.weight:1/head_dim2": "head_dim",
        "c_fc.weight:1": "mlp",
    },
    "falcon": {
        "word_embeddings.weight:0": "vocabulary",
        "word_embeddings.weight:1": "residual",
        "query_key_value.weight:0/query": "query",
        "query_key_value.weight:0/head_dim": "head_dim",
        "dense_h_to_4h.weight:0": "mlp",
    },
    "mixtral": {
        "embed_tokens.weight:0": "vocabulary",
        "embed_tokens.weight:1": "residual",
        "q_proj.weight:0/attention": "attention",
        "q_proj.weight:0/query": "query",
        "q_proj.weight:0/head_dim": "head_dim",
        "v_proj.weight:0/head_dim": "head_dim",
        "gate.weight:0": "experts",
        "experts.gate_up_proj:1/mlp": "mlp",
    },
}


@pytest.mark.parametrize("name", families(EXPECTED))
def test_every_group_is_what_its_parameters_are_for(name: str) -> None:
    found: dict[str, set[str]] = {}
    for group in analysis(name).groups.groups:
        last = re.search(r"(experts\.\w+|\w+\.weight):.*", group.id)
        assert last is not None
        found.setdefault(last[0], set()).add(group.kind)
    assert found == {suffix: {kind} for suffix, kind in EXPECTED[name].items()}


@pytest.mark.parametrize("name", families(["llama", "falcon", "cnn"]))
def test_a_parameter_goes_with_the_branches_that_it_is_at_home_in(name: str) -> None:
    """Against the rewritten graph, for branches one by one and, where they are parallel, together."""
    source, branches, homes = graph(name), analysis(name).groups.branches, kinds(name).homes
    parallel = [pair for pair in itertools.combinations(branches, 2) if pair[0].add == pair[1].add]
    for gone in (*((branch,) for branch in branches), *parallel):
        ids = tuple(branch.id for branch in gone)
        left = apply(source, Plan({}, ids)).parameters()
        lost = set(source.parameters()) - set(left)
        assert lost == {parameter for parameter, home in homes.items() if set(home) <= set(ids)}


@pytest.mark.xdist_group("falcon")
def test_a_norm_before_parallel_branches_is_at_home_in_both() -> None:
    homes = home_branches(graph("falcon"), analysis("falcon").groups.branches, kinds("falcon").nodes)
    norm = {name: home for name, home in homes.items() if "input_layernorm" in name}
    both = {f"transformer.h.{k}.input_layernorm.{part}": k for k in (0, 1) for part in ("weight", "bias")}
    assert norm == {name: (f"transformer.h.{k}.mlp", f"transformer.h.{k}.self_attention") for name, k in both.items()}
    assert kinds("falcon").block([*norm][:1]) is None


@pytest.mark.xdist_group("llama")
def test_a_block_is_the_one_branch_that_holds_all_of_the_parameters() -> None:
    found = kinds("llama")
    mlp = [f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    assert found.block(mlp) == "model.layers.0.mlp"
    assert found.block([*mlp, "model.layers.1.mlp.up_proj.weight"]) is None
    assert found.block(["model.embed_tokens.weight"]) is None


@pytest.mark.xdist_group("llama")
def test_the_cache_tells_heads_from_repetitions() -> None:
    """The key's second dimension are heads, the fourth their size; queries are what is left."""
    found, cut = kinds("llama"), analysis("llama")
    algebra, axes = cut.inference.algebra, cut.inference.axes
    key = graph("llama").placeholders["past_key_values.0.key"]
    heads, size = (algebra.atoms(axes[key][dim]) for dim in (1, 3))  # type: ignore[arg-type]
    assert set(heads) <= found.heads
    assert set(size) <= found.sizes
    assert [algebra.size(atom) for atom in heads] == [2]
    assert found.heads.isdisjoint(found.queries)
    assert len(found.queries) == 2


@pytest.mark.xdist_group("llama")
def test_an_axis_in_an_mlp_is_of_it_and_one_outside_of_all_branches_is_another() -> None:
    found = kinds("llama")
    nowhere = analysis("llama").inference.algebra.fresh(3)
    assert found.of(nowhere, ["model.layers.0.mlp.up_proj.weight"]) == "mlp"
    assert found.of(nowhere, ["model.embed_tokens.weight"]) == "other"
    assert found.of(next(iter(found.vocabulary)), ["model.layers.0.mlp.up_proj.weight"]) == "vocabulary"


def test_channels_are_second_in_an_image_and_last_in_a_text() -> None:
    node = torch.fx.Graph().placeholder("x")
    for shape, dim in (((2, 8, 4, 4), 1), ((2, 7, 8), -1), ((2, 8), -1)):
        node.meta["value"] = TensorType(torch.float32, shape)
        assert channel_dimension(node) == dim


@pytest.mark.xdist_group("cnn")
def test_only_parameters_are_named() -> None:
    source = graph("cnn")
    tensors = set(source.module.graph.find_nodes(op="get_attr"))
    assert names_among(frozenset(source.parameters()), tensors) == set(source.parameters())
    assert "norm1.running_mean" in source.tensors()
    assert names_among(frozenset(), tensors) == set()


def kinds_by_slot(graph: Graph) -> dict[tuple[str, int], set[str]]:
    found: dict[tuple[str, int], set[str]] = {}
    for group in analyze(graph).groups:
        for slot in group.slots:
            found.setdefault((slot.name, slot.dim), set()).add(group.kind)
    return found


@pytest.mark.parametrize("name", families(DECODERS))
def test_no_axis_changes_its_kind_where_one_key_head_is_left(name: str) -> None:
    """A later stage selects groups by kind: query heads that looked like channels would be cut as such."""
    before = kinds_by_slot(graph(name))
    heads = analysis(name).groups.prunable(frozenset({"attention"}))
    after = kinds_by_slot(apply(graph(name), Plan({group.id: (0,) for group in heads})))
    assert {slot: kinds for slot, kinds in after.items() if not kinds <= before[slot]} == {}
