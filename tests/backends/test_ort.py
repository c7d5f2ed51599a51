"""The onnxruntime backend: its operators compute what the graph computes, and fewer bits stay near it."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from graphprune.artefacts import parity
from graphprune.artefacts.check_process import check_all
from graphprune.artefacts.checks.genai_check import NAME as GENAI
from graphprune.artefacts.export import load_backends
from graphprune.backends.ort.backend import Ort
from graphprune.backends.ort.patterns import find_attentions, find_skip_norms, is_causal
from graphprune.backends.runtime.runner import load
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.pruning.selection import select
from graphprune.rewriting.apply import apply
from graphprune.running import comparison
from tests.support.families import analysis, families, graph
from tests.support.tiny_llama import CONFIG, tiny_graph
from tests.support.versions import other_versions

DECODERS = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "gpt_neox",
    "opt",
    "bloom",
    "falcon",
)
# What is fused in the two layers of each: attention, rotations, sums with their norms. Head sizes of 12 are not taken
# (qwen3), attention written out is not seen (gemma2, bloom), partial rotations stay as they are (phi3, gpt_neox).
FUSED = {
    "llama": (2, 4, 4),
    "mistral": (2, 4, 4),
    "qwen2": (2, 4, 4),
    "qwen3": (0, 0, 4),
    "gemma2": (0, 0, 0),
    "gemma3": (2, 4, 0),
    "phi3": (2, 0, 4),
    "gpt2": (2, 0, 0),
    "gpt_neox": (2, 0, 0),
    "opt": (2, 0, 0),
    "bloom": (0, 0, 0),
    "falcon": (2, 4, 0),
}
KINDS = ("GroupQueryAttention", "RotaryEmbedding", "SkipSimplifiedLayerNormalization")


def operators(folder: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(folder / "model.onnx", load_external_data=False).graph.node)


def check_whole(made: Graph, folder: Path, *backends: Ort) -> list[comparison.Check]:
    """Export, and compare logits of prefill, cached steps and a padded batch, and tokens, in this process."""
    for backend in backends:
        backend.export(made, folder)
    parity.save_reference(made, folder)
    return list(check_all(folder))


@pytest.mark.parametrize("name", families(DECODERS))
def test_every_family_computes_the_same_with_what_could_be_fused(name: str, tmp_path: Path) -> None:
    checks = check_whole(graph(name), tmp_path, Ort())
    assert [each.name for each in checks if not each.passed] == []
    assert len([check for check in checks if check.name != GENAI]) == 5
    found = operators(tmp_path / "onnx-ort")
    fused = tuple(found[kind] for kind in KINDS)
    assert fused == FUSED[name] or other_versions()  # other releases compute masks and rotations in other ways
    onnx.checker.check_model(tmp_path / "onnx-ort" / "model.onnx")


@pytest.mark.xdist_group("llama")
def test_layers_of_different_shape_keep_their_own_heads(tmp_path: Path) -> None:
    groups = analysis("llama").groups
    chosen = [g for g in groups.prunable(frozenset({"attention", "mlp"})) if g.block and ".0." in g.block]
    assert chosen
    scores = {g.id: torch.arange(g.units, dtype=torch.float64) for g in chosen}
    cut = apply(graph("llama"), select(groups, {g.id: max(1, g.units // 2) for g in chosen}, scores))
    assert all(each.passed for each in check_whole(cut, tmp_path, Ort()))
    model = onnx.load(tmp_path / "onnx-ort" / "model.onnx", load_external_data=False)
    heads = [
        next(a.i for a in node.attribute if a.name == "kv_num_heads")
        for node in model.graph.node
        if node.op_type == "GroupQueryAttention"
    ]
    assert heads == [1, 2]


def test_patterns_are_found_once_a_layer() -> None:
    made = tiny_graph()
    found = list(find_attentions(made))
    assert len(found) == CONFIG.num_hidden_layers
    assert len(list(find_skip_norms(made))) == 2 * CONFIG.num_hidden_layers
    assert all(each.result is not each.call for each in found)  # heads side by side, without a transpose


def test_a_mask_that_shows_the_future_is_not_causal() -> None:
    made = tiny_graph().fork()
    mask = next(find_attentions(made)).mask
    assert is_causal(made, mask)
    with made.module.graph.inserting_after(mask):
        open_ = made.module.graph.call_function(torch.ops.aten.logical_not.default, (mask,))
    open_.meta["value"] = mask.meta["value"]
    assert not is_causal(made, open_)
    for user in [u for u in mask.users if u is not open_]:
        user.replace_input_with(mask, open_)
    assert list(find_attentions(made)) == []


def test_the_cache_may_be_one_buffer_where_all_attention_is_fused(tmp_path: Path) -> None:
    for name, shared in (("llama", True), ("qwen3", False)):
        Ort().export(graph(name), tmp_path / name)
        config = json.loads((tmp_path / name / "onnx-ort" / "genai_config.json").read_text(encoding="utf-8"))
        assert config["search"]["past_present_share_buffer"] is shared


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model in every precision."""
    folder = tmp_path_factory.mktemp("reduced")
    full = tuple(Ort(precision) for precision in ("fp32", "fp16", "int8", "int4"))
    check_whole(tiny_graph(), folder, *full, Ort("int4", block=16, embeddings=True, folder="onnx-int4-all"))  # type: ignore[arg-type]
    return folder


def test_fewer_bits_stay_near_and_say_how_near(reduced: Path) -> None:
    checks = {(each.artefact, each.name): each for each in check_all(reduced)}
    assert all(each.passed for each in checks.values())
    errors = [checks[f"onnx-{name}", "prefill"].difference for name in ("ort", "fp16", "int8", "int4")]
    assert errors == sorted(errors)
    assert errors[0] < 1e-5 < errors[1]
    assert "tokens equal" in checks["onnx-int4", "greedy tokens"].detail


def test_fewer_bits_are_fewer_bytes_and_no_weight_is_kept_twice(reduced: Path) -> None:
    def size(name: str) -> int:
        return (reduced / name / "model.onnx.data").stat().st_size

    assert size("onnx-fp16") < 0.55 * size("onnx-ort")
    assert size("onnx-int4-all") < size("onnx-int4") < size("onnx-ort")
    for folder in reduced.glob("onnx-*"):
        model = onnx.load(folder / "model.onnx")
        onnx.checker.check_model(folder / "model.onnx")
        large = [t for t in model.graph.initializer if np.prod(t.dims) > 256]
        contents = [onnx.numpy_helper.to_array(t).tobytes() for t in large]
        assert len(set(contents)) == len(contents), folder.name


def test_a_packed_table_serves_embedding_and_tied_head(reduced: Path) -> None:
    model = onnx.load(reduced / "onnx-int4-all" / "model.onnx", load_external_data=False)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["GatherBlockQuantized"] == 1
    names = {t.name for t in model.graph.initializer}
    assert not [node.name for node in model.graph.node if node.op_type == "MatMul" and names & set(node.input)]
    assert "model.embed_tokens.weight.packed" in names
    assert "model.embed_tokens.weight" not in names
    found = load(reduced / "onnx-int4-all", "cpu")
    full = load(reduced / "onnx-ort", "cpu")
    ids = np.array([[5, 7, 11]])
    logits = [m.run(ids, np.ones_like(ids), np.arange(3)[None])[0] for m in (full, found)]
    assert np.abs(logits[0] - logits[1]).max() < 0.5 * np.abs(logits[0]).max()


def test_bad_options_and_two_backends_for_one_folder_are_refused() -> None:
    with pytest.raises(UsageError, match="precision=fp32, fp16, int8 or int4, not int3"):
        Ort("int3")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="block=16, 32, 64, 128 or 256, not 20"):
        Ort("int4", block=20)
    with pytest.raises(UsageError, match="two backends write to onnx-int4"):
        load_backends(["ort{precision=int4}", "ort{precision=int4,block=64}"])
    assert len(load_backends(["huggingface", "onnx", "ort", "ort{precision=int4}"])) == 4
