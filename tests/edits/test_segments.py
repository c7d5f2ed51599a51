"""One edit at a time: what it leaves, how what it adds is called, and what is refused."""

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.analysis.branches import STREAM_MAP, find_branches
from graphprune.edits.centring import centre
from graphprune.edits.norm_folding import fold_norms
from graphprune.edits.probes import probe
from graphprune.edits.segments import segment_edits, segments
from graphprune.edits.stream_maps import map_streams
from graphprune.edits.tensors import name_beside
from graphprune.edits.untying import untie
from graphprune.errors import PlanError
from graphprune.ir.operators import opname
from tests.support.families import graph

LLAMA, GPT2 = pytest.mark.xdist_group("llama"), pytest.mark.xdist_group("gpt2")
NORM, LAST = "model.layers.0.input_layernorm.weight", "model.norm.weight"
ATTENTION = "model.layers.0.self_attn"


@GPT2
def test_a_tied_head_gets_a_copy_beside_the_table() -> None:
    source = graph("gpt2")
    made = untie(source, ["transformer.wte.weight"])
    tensors = made.tensors()
    assert torch.equal(tensors["transformer.wte.weight"], tensors["transformer.wte_untied.weight"])
    assert tensors["transformer.wte.weight"] is not tensors["transformer.wte_untied.weight"]
    assert made.parameter_count() == source.parameter_count() + 61 * 32
    with pytest.raises(PlanError, match="read by one call alone"):
        untie(made, ["transformer.wte.weight"])
    with pytest.raises(PlanError, match="no tensor of this model"):
        untie(source, ["lm_head.weight"])


@LLAMA
def test_a_norm_is_folded_by_multiplying_the_columns_of_what_reads_it() -> None:
    source = graph("llama")
    made, old = fold_norms(source, [NORM]), source.tensors()
    assert NORM not in made.tensors()
    for name in ("q_proj", "k_proj", "v_proj"):
        weight = f"{ATTENTION}.{name}.weight"
        torch.testing.assert_close(made.tensors()[weight], old[weight] * old[NORM])
    same = [name for name in made.tensors() if "layers.0.self_attn.o" in name or "mlp" in name]
    assert all(made.tensors()[name] is old[name] for name in same)
    with pytest.raises(PlanError, match="is not the weight of one norm"):
        fold_norms(source, [f"{ATTENTION}.q_proj.weight"])


@GPT2
def test_a_layer_norm_is_folded_and_centred_and_a_tied_table_is_in_the_way() -> None:
    source = graph("gpt2")
    with pytest.raises(PlanError, match=r"ln_f.weight cannot be folded .* looks it up as well; untie it first"):
        fold_norms(source, ["transformer.ln_f.weight"])
    with pytest.raises(PlanError, match=r"the mean of transformer\.wte\.weight:1 cannot be folded"):
        centre(source, ["transformer.wte.weight:1"])
    made = centre(untie(source, ["transformer.wte.weight"]), ["transformer.wte.weight:1"])
    assert [opname(node) for node in made.nodes].count("rms_norm") == 5
    for name in ("transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.mlp.c_proj.bias"):
        assert made.tensors()[name].mean(-1).abs().max() < 1e-6
    with pytest.raises(PlanError, match="has no layer norm"):
        centre(made, ["transformer.wte.weight:1"])
    with pytest.raises(PlanError, match="is no group"):
        centre(source, ["wte"])


@LLAMA
def test_a_stream_map_parts_the_stream_and_the_branch_is_still_seen() -> None:
    source = graph("llama")
    made = map_streams(source, [ATTENTION])
    assert torch.equal(made.tensors()[f"{ATTENTION}.{STREAM_MAP}"], torch.eye(32))
    assert [b.id for b in find_branches(made)] == [b.id for b in find_branches(source)]
    assert len(segments(made)) == 2
    assert {g.kind for g in analyze(made).groups} == {g.kind for g in analyze(source).groups}
    with pytest.raises(PlanError, match="is mapped already"):
        map_streams(made, [ATTENTION])
    with pytest.raises(PlanError, match="mlp3 is no residual branch"):
        map_streams(source, ["mlp3"])


@LLAMA
def test_what_is_edited_already_is_left_out() -> None:
    source = graph("llama")
    kinds = [edit.kind for edit in segment_edits(source)]
    assert kinds == ["fold-norm"] * 5 + ["stream-map"] * 4
    assert [e.kind for e in segment_edits(fold_norms(source, [NORM]))] == ["fold-norm"] * 4 + ["stream-map"] * 4


@LLAMA
def test_a_probe_parts_what_a_node_writes_from_what_reads_it() -> None:
    source = graph("llama")
    call = next(node for node in source.nodes if node.all_input_nodes and str(node.all_input_nodes[0].target) == NORM)
    probed = probe(source, [call.name])
    names = {slot.name.rpartition("self_attn.")[2] for slot in probed.slots(probed.behind(0))}
    assert names == {"q_proj.weight", "k_proj.weight", "v_proj.weight"}
    assert name_beside("scale", "bias") == "scale_bias"
