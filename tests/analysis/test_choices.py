"""Mixtures of experts: experts can be removed, fewer are then chosen, and what is left runs wherever it is loaded."""

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers
from torch import Tensor, nn

from graphprune.analysis.analyse import Analysis, analyze, analyze_axes
from graphprune.analysis.groups import Group
from graphprune.artefacts import check_process, parity
from graphprune.backends.huggingface.backend import HuggingFace
from graphprune.backends.onnx.backend import Onnx
from graphprune.cli.main import run
from graphprune.errors import PlanError
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan, read_plan
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.passes.importance.taylor import Taylor
from graphprune.pruning.interfaces import view
from graphprune.pruning.signals.loss_curves import CutLoss
from graphprune.rewriting.apply import apply
from graphprune.rewriting.masked import Masked
from graphprune.running import comparison, observations, runners
from tests.support import oracle
from tests.support.tiny_source import write_source

SMALL: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
}
DEEPSEEK: dict[str, Any] = {
    **{name: value for name, value in SMALL.items() if name != "head_dim"},
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 0,
    "n_group": 2,
    "topk_group": 1,
}
GPT_OSS = {**SMALL, "num_local_experts": 4, "intermediate_size": 32, "layer_types": ["full_attention"]}
CONFIGS: dict[str, Callable[[], Any]] = {
    "mixtral": lambda: transformers.MixtralConfig(**SMALL, num_local_experts=5),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**SMALL, num_experts=4, norm_topk_prob=True),
    "olmoe": lambda: transformers.OlmoeConfig(**SMALL, num_experts=4),
    "deepseek_v3": lambda: transformers.DeepseekV3Config(**DEEPSEEK),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **GPT_OSS, rope_parameters={"rope_type": "default", "rope_theta": 1e4}
    ),
    "phimoe": lambda: transformers.PhimoeConfig(**SMALL, num_local_experts=4),
    "llama4": lambda: transformers.Llama4TextConfig(**SMALL, num_local_experts=4, intermediate_size_mlp=48),
}
FAMILIES = [pytest.param(name, marks=pytest.mark.xdist_group(f"experts-{name}")) for name in CONFIGS]


@functools.cache
def model(name: str) -> Any:
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    return made


@functools.cache
def graph(name: str) -> Graph:
    return capture(model(name))


@functools.cache
def wide(name: str) -> tuple[Graph, Analysis, Masked]:
    return oracle.analyses(graph(name))


def experts(graph: Graph) -> list[Group]:
    return [group for group in analyze(graph).groups if group.kind == "experts"]


def keep_last(graph: Graph, count: int) -> Plan:
    """The last experts, and of groups of experts all."""
    return Plan({g.id: tuple(range(g.units - count, g.units)) for g in experts(graph)[-1:]})


@pytest.mark.parametrize("name", FAMILIES)
def test_without_experts_the_model_equals_the_one_that_never_chooses_them(name: str) -> None:
    source, analysis, masked = wide(name)
    groups = experts(source)
    assert groups
    assert all(group.chosen and group.locked is None for group in groups)
    for count in (1, 2, 3):
        rng = random.Random(count)
        sizes = {g.id: max(g.least, min(count, g.units)) for g in groups}
        plan = Plan({g.id: tuple(sorted(rng.sample(range(g.units), sizes[g.id]))) for g in groups}, statistics="exact")
        oracle.check_cut(source, analysis, masked, plan, 1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_experts_are_narrowed_too(name: str) -> None:
    source, analysis, masked = wide(name)
    groups = [g for g in analysis.groups.prunable() if g.kind in ("mlp", "experts")]
    assert {"mlp", "experts"} == {group.kind for group in groups}
    plan = Plan({g.id: oracle.random_keep(g, random.Random(g.id)) for g in groups}, statistics="exact")
    oracle.check_cut(source, analysis, masked, plan, 1e-9)


@pytest.mark.xdist_group("experts-gpt_oss")
def test_a_removed_expert_is_one_with_a_logit_that_never_wins() -> None:
    """In a router with a bias, transformers' own model says what it means: the bias of that expert is -1e9."""
    source, kept = graph("gpt_oss"), (1, 3)
    cut = apply(source, Plan({experts(source)[0].id: kept}))
    unwanted = model("gpt_oss").model.layers[0].mlp.router.bias
    before = unwanted.detach().clone()
    ids = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            unwanted[[0, 2]] = -1e9
            wanted = model("gpt_oss")(input_ids=ids).logits
    finally:
        with torch.no_grad():
            unwanted.copy_(before)
    with torch.no_grad():
        found = logits(cut, ids)
        whole = logits(source, ids)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert not torch.allclose(whole, wanted, atol=1e-3)


def logits(graph: Graph, ids: Tensor) -> Tensor:
    runner = runners.graph_runner(graph)
    return runner(ids, torch.ones_like(ids), observations.arange(ids), None)[0]


@pytest.mark.xdist_group("experts-mixtral")
def test_fewer_experts_than_a_token_had_are_a_stock_checkpoint(tmp_path: Path) -> None:
    cut = apply(graph("mixtral"), keep_last(graph("mixtral"), 1))
    (choice,) = cut.module.graph.find_nodes(op="call_function", target=torch.ops.aten.topk.default)
    assert choice.args[1] == 1
    parity.save_reference(cut, tmp_path)
    HuggingFace(form="stock").export(cut, tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (config.num_local_experts, config.num_experts_per_tok) == (1, 1)
    check(check_process.check_checkpoint, tmp_path, tmp_path)
    Onnx().export(cut, tmp_path)
    check(check_process.check_runnable, tmp_path, tmp_path / "onnx")


def check(checks: Callable[..., Any], out: Path, place: Path) -> None:
    with torch.no_grad():
        expected, kind = check_process.read_reference(out)
        comparison.require(list(checks(place, expected, kind)))


@pytest.mark.xdist_group("experts-deepseek_v3")
def test_groups_of_experts_lose_the_same_places() -> None:
    """Routing limited to groups stays: either whole groups go, or as many experts in each."""
    groups, members = experts(graph("deepseek_v3"))
    assert (groups.units, members.units) == (2, 4)
    (owner,) = {slot.owner.tobytes() for slot in members.slots}
    assert numpy.frombuffer(owner, dtype=numpy.int64).tolist() == [0, 1, 2, 3] * 2
    cut = apply(graph("deepseek_v3"), Plan({members.id: (0, 2)}))
    assert cut.tensors()["model.layers.0.mlp.gate.weight"].shape == (4, 32)
    assert cut.tensors()["model.layers.0.mlp.gate.e_score_correction_bias"].shape == (4,)


@pytest.mark.xdist_group("experts-phimoe")
def test_experts_that_are_picked_one_by_one_are_not_fewer_than_the_picks() -> None:
    (group,) = experts(graph("phimoe"))
    assert group.least == 2
    with pytest.raises(PlanError, match="from which 2 are always chosen"):
        apply(graph("phimoe"), Plan({group.id: (1,)}))


@pytest.mark.xdist_group("experts-mixtral")
def test_what_calls_a_loss_measures_absent_experts() -> None:
    """The masked model that losses are measured with is the one that the cut model equals."""
    source, (group,) = graph("mixtral"), experts(graph("mixtral"))
    text = [torch.randint(61, (2, 12), generator=torch.Generator().manual_seed(1))]
    probe = CutLoss(source, text, text, {group.id: torch.arange(5.0)})
    assert probe.measure({group.id: 2}) == pytest.approx(probe.measure_cut(Plan({group.id: (3, 4)})), abs=1e-5)


class Router(nn.Module):
    """Experts that are chosen, and then something else is done with their numbers."""

    def __init__(self, use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.gate, self.up, self.use = nn.Linear(6, 5), nn.Parameter(torch.randn(5, 6)), use

    def forward(self, x: Tensor) -> Tensor:
        values, index = self.gate(x).topk(2)
        return self.use((self.up[index] * values[..., None]).sum(1), index)


USES: list[tuple[Callable[[Tensor, Tensor], Tensor], str | None]] = [
    (lambda y, index: y, None),
    (lambda y, index: y + index.sum(-1, keepdim=True), "are computed with"),
    (lambda y, index: y + (index == 3).float().sum(-1, keepdim=True), "are computed with"),
    (lambda y, index: torch.cat([y, index.to(y.dtype)], -1), "are computed with"),
    (lambda y, index: y + index.new_zeros(index.shape[0], 5).scatter(1, index, 1).sum(-1, keepdim=True), None),
]


@pytest.mark.parametrize(("use", "locked"), USES)
def test_numbers_of_experts_are_only_pointers(use: Callable[[Tensor, Tensor], Tensor], locked: str | None) -> None:
    torch.manual_seed(0)
    found = capture(Router(use).double(), inputs={"x": torch.randn(3, 6, dtype=torch.float64)})
    analysis = analyze_axes(found)
    group = next(g for g in analysis.groups.groups if g.kind == "experts")
    if locked is not None:
        assert group.locked is not None
        assert locked in group.locked
        return
    for kept in ((2,), (0, 4), (1, 2, 3)):
        oracle.check_cut(found, analysis, Masked(found, analysis), Plan({group.id: kept}), 1e-9)


@pytest.mark.xdist_group("experts-mixtral")
def test_widths_are_multiples_that_grouped_products_run_on() -> None:
    kinds = {g.kind: g.multiple for g in analyze(graph("mixtral")).groups}
    assert (kinds["mlp"], kinds["residual"], kinds["experts"], kinds["attention"]) == (8, 8, 1, 1)
    llama = capture(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)))
    assert {g.multiple for g in analyze(llama).groups} == {1}


@pytest.mark.xdist_group("experts-mixtral")
@pytest.mark.parametrize("width", [8, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_multiple_runs_as_it_is_loaded_plainly(width: int, dtype: torch.dtype, tmp_path: Path) -> None:
    cut = apply(graph("mixtral"), narrowed(width))
    HuggingFace(form="stock").export(cut, tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    assert loaded.config._experts_implementation == "grouped_mm"
    ids = torch.arange(1, 8)[None]
    limit = 0.02 if dtype.itemsize == 2 else 1e-5
    with torch.no_grad():
        wanted = logits(cut, ids)
        assert float((loaded(ids).logits.float() - wanted).norm() / wanted.norm()) < limit
        stack = loaded.get_parameter("model.layers.0.mlp.experts.down_proj")
        stack.copy_(stack.flip(0))
        mixed_up = loaded(ids).logits.float()
    assert float((mixed_up - wanted).norm() / wanted.norm()) > 2 * limit, "or the comparison sees nothing"


def narrowed(width: int) -> Plan:
    (group,) = (g for g in analyze(graph("mixtral")).groups if g.kind == "mlp")
    return Plan({group.id: tuple(range(width))})


@pytest.mark.xdist_group("experts-mixtral")
def test_a_width_that_its_class_cannot_run_is_written_in_the_generic_form(tmp_path: Path) -> None:
    cut = apply(graph("mixtral"), narrowed(22))
    parity.save_reference(cut, tmp_path)
    HuggingFace().export(cut, tmp_path)
    assert (tmp_path / "modeling_graphprune.py").exists()
    check(check_process.check_checkpoint, tmp_path, tmp_path)


@pytest.mark.xdist_group("experts-mixtral")
def test_experts_have_scores() -> None:
    """Magnitude counts everything that goes with an expert; taylor agrees with what its removal costs most."""
    source, (group,) = graph("mixtral"), experts(graph("mixtral"))
    stacks = ("mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    owned = [source.parameters()[f"model.layers.0.{name}"].detach().flatten(1) for name in stacks]
    scores = Magnitude().score(view(source, [group]))[group.id]
    torch.testing.assert_close(scores, torch.cat(owned, 1).square().sum(1))
    text = [torch.randint(61, (4, 12), generator=torch.Generator().manual_seed(2))]
    found = Taylor().score(view(source, [group], text))[group.id]
    assert found.shape == (5,)
    assert bool((found > 0).all())
    assert len(set(found.tolist())) == 5


def test_the_command_line_prunes_experts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write_source(tmp_path / "source"), tmp_path / "out"
    shape = {**SMALL, "vocab_size": 300, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    made: Any = transformers.MixtralForCausalLM(transformers.MixtralConfig(**shape, num_local_experts=4))
    made.save_pretrained(source)
    line = f"compile {source} -o {out} --prune experts --target-params 56% --uniform --samples 4 --length 24 --json"
    assert run([*line.split(), "--data", str(source / "text.txt"), "--backends", "huggingface,onnx"]) == 0, (
        capsys.readouterr().err
    )
    report = json.loads(capsys.readouterr().out)
    assert report["checks"]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert type(loaded) is transformers.MixtralForCausalLM
    assert (loaded.config.num_local_experts, loaded.config.num_experts_per_tok) == (1, 1)
    plan = read_plan(out / "graphprune" / "plan.json")
    assert {len(units) for units in plan.keep.values()} == {1}
