"""The models of `onnx-cuda`: what they are, their exports, the logits that all are compared with, and their speed."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from part import now
from shapes import Shape, make_model
from torch import Tensor

from graphprune.artefacts.export import load_backends
from graphprune.demo import DEMO_FOLDER
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.running.runners import Runner, graph_runner, model_runner

# What is exported, with the type of the graph that it is exported from.
FORMS = {
    "portable fp32": (torch.float32, "onnx"),
    "ort fp32": (torch.float32, "ort"),
    "ort fp16": (torch.float32, "ort{precision=fp16}"),
    "portable fp16": (torch.float16, "onnx{keep_half=true,folder=onnx-half}"),
}
# Of the largest logit. The CUDA provider multiplies float32 in TF32 unless it is told not to.
TOLERANCES = {"fp32": 5e-3, "fp16": 3e-2}
WARM = 2
PROMPT = 24  # tokens whose logits are compared


@dataclass(frozen=True)
class Timing:
    """A prompt of `context` tokens, `tokens` after it; the best of `runs` counts."""

    context: int = 256
    tokens: int = 64
    runs: int = 3

    def speeds(self, runs: Sequence[tuple[float, float]]) -> dict[str, float]:
        """Tokens a second of prefill and of decoding."""
        prefill, decode = (min(column) for column in zip(*runs, strict=True))
        return {"prefill": round(self.context / prefill, 1), "decode": round(self.tokens / decode, 1)}


@dataclass(frozen=True, eq=False)
class Subject:
    """A model: `load` gives transformers' own class in a type; exports stand below `folder`."""

    name: str
    load: Callable[[torch.dtype], Any]
    folder: Path
    device: torch.device
    timing: Timing

    def graph(self, dtype: torch.dtype) -> Graph:
        return capture("demo", dtype=dtype) if self.name == "demo" else capture(self.load(dtype).to("cpu"))


def load_demo(dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype=dtype).eval()


def load_shape(shape: Shape, device: torch.device, dtype: torch.dtype) -> Any:
    """Drawn in float32 whatever the type, so that all have the same weights; buffers of rotations stay in float32."""
    model = make_model(shape, device)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    return model


def clear(subject: Subject) -> None:
    """An empty folder for the exports, with what `generate` reads beside them."""
    shutil.rmtree(subject.folder, ignore_errors=True)
    subject.folder.mkdir(parents=True)
    if subject.name == "demo":
        for path in DEMO_FOLDER.glob("*.json"):
            shutil.copyfile(path, subject.folder / path.name)


def step_inputs(rows: int, length: int, past: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and positions of a step; the tokens are any that every vocabulary here has."""
    ids = torch.randint(1, 256, (rows, length), generator=torch.Generator().manual_seed(length))
    positions = torch.arange(past, past + length).expand(rows, length).contiguous()
    return ids, torch.ones(rows, past + length, dtype=torch.long), positions


@torch.no_grad()
def expected_logits(graph: Graph) -> list[Tensor]:
    """The graph's logits of a prompt, and of a step with its cache."""
    run = graph_runner(graph)
    first, past = run(*step_inputs(2, PROMPT), None)
    second, _ = run(*step_inputs(2, 1, PROMPT), past)
    return [first.float().cpu(), second.float().cpu()]


def measure_parity(model: Any, expected: Sequence[Tensor], precision: str) -> float:
    """The largest difference of both steps, of the largest logit. Raises ValueError where it is too large."""
    first, past = model.run(*(tensor.numpy() for tensor in step_inputs(2, PROMPT)))
    second, _ = model.run(*(tensor.numpy() for tensor in step_inputs(2, 1, PROMPT)), past)
    pairs = [(torch.from_numpy(have).float(), want) for have, want in zip((first, second), expected, strict=True)]
    worst = max(float((have - want).abs().max() / want.abs().max()) for have, want in pairs)
    if not worst <= TOLERANCES[precision]:
        raise ValueError(f"the logits differ by {worst:.1e} of the largest, {TOLERANCES[precision]:g} is allowed")
    return worst


def measure_export(
    subject: Subject, graph: Graph, form: str, provider: str, expected: Sequence[Tensor]
) -> Mapping[str, Any]:
    """Write one form of a graph, and measure it with a provider."""
    load_backends([FORMS[form][1]])[0].export(graph, subject.folder)
    return measure_session(subject, form, provider, expected)


def measure_session(subject: Subject, form: str, provider: str, expected: Sequence[Tensor]) -> Mapping[str, Any]:
    """Open one export with a provider: parity and speed."""
    timing = subject.timing
    backend = load_backends([FORMS[form][1]])[0]
    model = backend.open(subject.folder / backend.place, provider)
    difference = measure_parity(model, expected, form.split()[1])
    model.run_timed(timing.context, WARM)  # the first run allocates
    runs = [model.run_timed(timing.context, timing.tokens) for _ in range(timing.runs)]
    return {"difference": float(f"{difference:.2e}"), **timing.speeds(runs)}


@torch.no_grad()
def measure_torch(subject: Subject, dtype: torch.dtype) -> Mapping[str, Any]:
    """The same through transformers' own class with its cache."""
    run, timing = model_runner(subject.load(dtype).to(subject.device)), subject.timing
    time_run(run, timing.context, WARM)
    return timing.speeds([time_run(run, timing.context, timing.tokens) for _ in range(timing.runs)])


def time_run(run: Runner, context: int, tokens: int) -> tuple[float, float]:
    """Seconds of the prefill and of the tokens after it, each chosen before the next is asked for."""
    began = now()
    logits, past = run(*step_inputs(1, context), None)
    chosen = logits[:, -1:].argmax(-1).cpu()
    middle = now()
    for index in range(tokens):
        _, mask, positions = step_inputs(1, 1, context + index)
        logits, past = run(chosen, mask, positions, past)
        chosen = logits[:, -1:].argmax(-1).cpu()
    return middle - began, now() - middle
