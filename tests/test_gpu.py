"""What a GPU computes against what the processor does: every part of the way that runs a model.

`pytest -m gpu` needs a GPU; with `--stand-in` a stand-in shows that nothing is left on the wrong side.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor

import graphprune.training
from graphprune.analysis.analyse import analyze, analyze_axes
from graphprune.artefacts.export import load_backends
from graphprune.budget.budgets import Budget
from graphprune.compiler.compile import compile_model
from graphprune.errors import MemoryShortError, TrainingError, UsageError
from graphprune.evaluation.language_model import load_face
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place, place_like
from graphprune.ir.plan import Plan
from graphprune.pipeline.options import CompileOptions
from graphprune.pruning.interfaces import view
from graphprune.pruning.rounds import Request, prune
from graphprune.pruning.signals.stream_change import branch_influence
from graphprune.rewriting.apply import apply
from graphprune.rewriting.masked import masked
from graphprune.running.devices import choose_device, describe_device, memory_errors, unused_gpu
from graphprune.running.inputs import decoder_inputs
from graphprune.running.loss import next_token_loss
from graphprune.running.perplexity import perplexity
from graphprune.spec import parse_spec
from graphprune.training.options import LoraOptions, TrainOptions
from graphprune.training.train import train
from tests.support import oracle
from tests.support.oracle import double
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import CONFIG, ids, tiny_graph
from tests.support.tiny_source import write_source

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]
BATCHES = tuple(ids(4, 12, seed) for seed in range(3))
TAYLORS = [
    f"taylor{{aggregate={aggregate},{mode}}}"
    for aggregate in ("vector", "element")
    for mode in ("gradients=batch", "gradients=sample", "order=second", "order=mixed")
]
OPTIONS = TrainOptions(steps=8, rows=4, lr=3e-3, eval_every=4, device="cpu")


@pytest.fixture(autouse=True)
def stand_in_trains(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate knows no stand-in, so it is told where it is."""
    if not request.config.getoption("--stand-in"):
        return
    made = graphprune.training.train.make_accelerator

    def make(options: TrainOptions) -> Any:
        accelerator = made(replace(options, device="cpu"))
        for state in (AcceleratorState, PartialState):
            state._shared_state["device"] = choose_device(options.device)
        return accelerator

    monkeypatch.setattr(graphprune.training.train, "make_accelerator", make)


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """A real GPU: for kernels and types that a stand-in does not have."""
    if device.type != "cuda":
        pytest.skip("needs a GPU; the stand-in has no kernels of its own")
    return device


@functools.cache
def on(device: torch.device) -> Graph:
    return place(tiny_graph(), device)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal but for rounding, relative to the largest entry."""
    limit = tolerance * float(expected.detach().abs().max())
    torch.testing.assert_close(found.detach().cpu(), expected.detach().cpu(), rtol=0, atol=limit, check_dtype=True)


def same_weights(found: Graph, expected: Graph, tolerance: float = 1e-4) -> None:
    assert list(found.parameters()) == list(expected.parameters())
    for name, tensor in expected.parameters().items():
        close(found.parameters()[name], tensor, tolerance)


def same_scores(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Close, and in the same order wherever the difference is more than rounding."""
    assert found.keys() == expected.keys()
    for id, scores in expected.items():
        assert found[id].device.type == "cpu"
        close(found[id], scores)
        order, gaps = scores.argsort(), scores.sort().values.diff()
        ranked = found[id][order].diff()
        assert bool((ranked[gaps > 2e-4 * scores.max()] > 0).all()), id


def sources(device: torch.device) -> Iterator[Graph]:
    yield tiny_graph()
    yield on(device)


def test_the_device_is_found_and_named(device: torch.device) -> None:
    assert choose_device(None) == choose_device("auto") == choose_device(device.type) == choose_device(str(device))
    assert choose_device("cpu") == torch.device("cpu")
    assert describe_device(device).startswith(str(device))
    with pytest.raises(UsageError, match=rf"there is no device {device.type}:9; this machine has {device}.*CPU as cpu"):
        choose_device(f"{device.type}:9")
    assert unused_gpu(device) is None


def test_a_gpu_that_is_not_used_is_named(cuda: torch.device) -> None:
    assert str(unused_gpu(torch.device("cpu"))).startswith("a GPU is here and not used: NVIDIA")


def test_the_graph_computes_the_same_there_and_comes_back(device: torch.device) -> None:
    close(next_token_loss(on(device), ids(3, 10)), next_token_loss(tiny_graph(), ids(3, 10)))
    back, first = place_like(on(device), tiny_graph()), tiny_graph()
    assert all(torch.equal(tensor, first.tensors()[name]) for name, tensor in back.tensors().items())
    assert len(back.parameters()) == len(first.parameters())  # ties are ties
    assert place_like(back, first) is back


def test_a_model_is_captured_where_it_is(cuda: torch.device) -> None:
    torch.manual_seed(0)
    model: Any = transformers.LlamaForCausalLM(CONFIG).eval()
    here, there = capture(model), capture(model.to(cuda))
    assert [group.id for group in analyze(there).groups] == [group.id for group in analyze(here).groups]
    with torch.no_grad():
        close(next_token_loss(there, ids(2, 9)), next_token_loss(place(here, cuda), ids(2, 9)))


def test_groups_do_not_depend_on_the_device(device: torch.device) -> None:
    here, there = analyze(tiny_graph()), analyze(on(device))
    assert [(g.id, g.kind, g.units) for g in there.groups] == [(g.id, g.kind, g.units) for g in here.groups]
    assert there.costs.parameters(there.sizes()) == tiny_graph().parameter_count()


@pytest.mark.parametrize("spec", [*TAYLORS, "obs", "magnitude", "random"])
def test_scores(spec: str, device: torch.device) -> None:
    kinds = {"mlp", "attention", "residual"}
    importance = parse_spec("importance", spec)
    here, there = (
        importance.score(view(graph, analyze(graph).prunable(frozenset(kinds)), BATCHES)) for graph in sources(device)
    )
    same_scores(there, here)


def test_the_influence_of_blocks(device: torch.device) -> None:
    here, there = (branch_influence(graph, analyze(graph), BATCHES) for graph in sources(device))
    assert there == pytest.approx(here, rel=1e-4, abs=1e-6)


def request(importance: str, allocation: str, compensation: str | None = None, steps: int = 1) -> Request:
    """Prune half of the tiny model."""
    repair = parse_spec("compensation", compensation) if compensation else None
    target = tiny_graph().parameter_count() // 2
    parts = parse_spec("importance", importance), parse_spec("allocation", allocation)
    return Request(Budget(target), *parts, kinds=("mlp", "attention", "residual"), steps=steps, compensation=repair)


WAYS = [
    request("taylor", "global"),
    request("taylor", "adaptive"),
    request("obs", "global{normalize=none}", "least-squares"),
    request("taylor", "adaptive", "least-squares", steps=2),
    request("magnitude", "uniform", "bias"),
    request("taylor", "knapsack"),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.importance.name}-{way.allocation.name}-{way.steps}")
def test_pruning(way: Request, device: torch.device) -> None:
    """What is cut is the same, and what is left; in float64, since rounding may swap units that score alike."""
    wide = double(tiny_graph())
    here, there = prune(wide, way, BATCHES), prune(place(wide, device), way, BATCHES)
    assert there.plan == here.plan
    assert all(tensor.device == device for tensor in there.graph.tensors().values())
    same_weights(there.graph, here.graph, 1e-3 if way.compensation else 1e-6)
    close(next_token_loss(there.graph, BATCHES[0]), next_token_loss(here.graph, BATCHES[0]))


@pytest.mark.parametrize("kind", ["mlp", "attention", "residual"])
def test_a_cut_is_the_masked_model(kind: str, device: torch.device) -> None:
    wide = place(oracle.double(tiny_graph()), device)
    analysis = analyze_axes(wide)
    group = next(group for group in analysis.groups.groups if group.kind == kind)
    plan = Plan({group.id: tuple(range(1, group.units, 2))}, statistics="exact")
    cut, whole = apply(wide, plan, analysis), masked(wide)
    for tokens in BATCHES:
        close(cut(*decoder_inputs(cut, tokens))[0], whole(plan, *decoder_inputs(wide, tokens))[0], 1e-9)


def train_both(device: torch.device, folder: Path, **changes: Any) -> tuple[Any, Any]:
    """The same training on both sides."""
    here, there = (replace(OPTIONS, device=str(where), **changes) for where in ("cpu", device))
    teacher = tiny_graph() if here.distill else None
    return (
        train(tiny_graph(), here, Rows(), teacher, held_out(), folder=folder / "here"),
        train(tiny_graph(), there, Rows(), teacher, held_out(), folder=folder / "there"),
    )


FORMS: list[dict[str, Any]] = [
    {},
    {"distill": 0.5},
    {"accumulate": 2, "weight_decay": 0.1},
    {"lora": LoraOptions(4)},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form) or "plain")
def test_training_in_float32(form: dict[str, Any], device: torch.device, tmp_path: Path) -> None:
    here, there = train_both(device, tmp_path, **form)
    assert there.loss == pytest.approx(here.loss, rel=1e-4)
    assert there.held_out == pytest.approx(here.held_out, rel=1e-4)
    assert {tensor.device.type for tensor in there.graph.tensors().values()} == {"cpu"}  # where it was given
    same_weights(there.graph, here.graph, 1e-2)  # Adam divides by small gradients: rounding of them is seen
    assert next_token_loss(there.graph, BATCHES[0]).item() == pytest.approx(
        next_token_loss(here.graph, BATCHES[0]).item(), rel=1e-3
    )


def test_training_compiled(cuda: torch.device, tmp_path: Path) -> None:
    here, there = train_both(cuda, tmp_path, compile=False), train_both(cuda, tmp_path / "compiled", compile=True)
    assert there[1].loss == pytest.approx(here[0].loss, rel=1e-3)


@pytest.mark.parametrize("compile", [False, True])
def test_training_in_bf16(compile: bool, cuda: torch.device, tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=60, lr=1e-2, device=str(cuda), precision="bf16", compile=compile)
    trained = train(tiny_graph(), options, Rows(), held_out=held_out(), folder=tmp_path)
    start = perplexity(tiny_graph(), held_out(), 12).nats_per_token
    wide = train(tiny_graph(), replace(options, precision="none", compile=False), Rows(), held_out=held_out())
    assert all(tensor.dtype == torch.float32 for tensor in trained.graph.parameters().values())
    assert trained.loss is not None
    assert wide.loss is not None
    assert trained.loss < start - 0.5
    assert trained.loss == pytest.approx(wide.loss, abs=0.25)


def test_moments_go_through_a_cut(device: torch.device) -> None:
    first = train(tiny_graph(), replace(OPTIONS, device=str(device), total_steps=16), Rows()).graph
    group = next(group for group in analyze(first).groups if group.kind == "mlp")
    keep = tuple(range(0, group.units, 2))
    cut = apply(place(first, device), Plan({group.id: keep}))
    name = f"{group.scope}.gate_proj.weight"
    for kind in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(cut.companions[kind][name].cpu(), first.companions[kind][name][list(keep)])
    going_on = replace(OPTIONS, device=str(device), first_step=8, first_row=32, total_steps=16)
    second = train(place_like(cut, first), going_on, Rows()).graph
    assert second.memo["moments"] == {"updates": 16}


def test_a_killed_training_goes_on(device: torch.device, tmp_path: Path) -> None:
    options = replace(OPTIONS, device=str(device), save_every=4)
    whole = train(tiny_graph(), options, Rows(), folder=tmp_path / "whole").graph

    class Killed(Rows):
        def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
            if start >= 20:
                raise KeyboardInterrupt
            return Rows().rows(start, count)

    with pytest.raises(KeyboardInterrupt):
        train(tiny_graph(), options, Killed(), folder=tmp_path / "killed")
    same_weights(train(tiny_graph(), options, Rows(), folder=tmp_path / "killed").graph, whole)


def test_a_killed_training_goes_on_elsewhere(device: torch.device, tmp_path: Path) -> None:
    options = replace(OPTIONS, device=str(device), save_every=4)
    whole = train(tiny_graph(), options, Rows(), folder=tmp_path).graph
    same_weights(train(tiny_graph(), replace(options, device="cpu"), Rows(), folder=tmp_path).graph, whole)


def test_evaluation(device: torch.device) -> None:
    here, there = (perplexity(graph, held_out(), 12, text_bytes=240) for graph in sources(device))
    assert there.bits_per_byte == pytest.approx(here.bits_per_byte, rel=1e-4)


def test_every_face_is_evaluated_there(cuda: torch.device, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    tokens = ids(2, 8)
    for face in ("graph", "checkpoint"):
        here, there = (load_face(str(source), face, dtype=torch.float32, device=d) for d in (None, cuda))
        close(there.logits(tokens), here.logits(tokens))


@pytest.mark.parametrize("backend", ["huggingface", "onnx", "ort"])
def test_export_from_its_tensors(backend: str, device: torch.device, tmp_path: Path) -> None:
    """Files are the same, byte for byte."""
    (writer,) = load_backends((backend,))
    for graph, folder in zip(sources(device), ("here", "there"), strict=True):
        (tmp_path / folder).mkdir()
        writer.export(graph, tmp_path / folder)
    files = [path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*") if path.is_file()]
    assert files
    for file in files:
        assert (tmp_path / "there" / file).read_bytes() == (tmp_path / "here" / file).read_bytes(), file


def test_compile_from_end_to_end(device: torch.device, tmp_path: Path) -> None:
    """Pruned, compensated, trained in two turns and measured there; what is written is checked in a fresh process."""
    source, seen = write_source(tmp_path / "source"), list[str]()
    options = CompileOptions(
        str(source),
        "70%",
        tmp_path / "out",
        method="adapt-accel",
        train_tokens="2048",
        stages=2,
        settings=("recover.rows=2", "recover.length=32"),
        data=str(source / "text.txt"),
        compensation="least-squares",
        samples=8,
        length=16,
        backends=("huggingface",),
        device=str(device),
        precision="float32",
    )
    result = compile_model(options, lambda stage, *_, **__: seen.append(stage))
    assert all(check.passed for check in result.checks)
    assert f"computing on {describe_device(device)}" in seen
    assert {measure.name for measure in result.measures} >= {"held-out perplexity", "parameters"}


def test_want_of_memory_there_is_one_line(cuda: torch.device) -> None:
    line = r"out of memory on cuda:0 \(NVIDIA.* GiB free: lower it"
    with pytest.raises(MemoryShortError, match=line), memory_errors("lower it"):
        torch.empty(1 << 45, device=cuda)

    class Large(Rows):
        def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
            torch.empty(1 << 45, device=cuda)
            raise AssertionError

    with pytest.raises(TrainingError, match=r"out of memory at 4 rows of 12 tokens on cuda:0.*lower rows"):
        train(tiny_graph(), replace(OPTIONS, device=str(cuda)), Large())
