"""Part `onnx-cuda`: the ONNX models of demo and of a 125M shape on onnxruntime's CUDA provider.

Parity with the graph, speed beside torch and beside the processor, and the command line's `generate` and `bench`.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import onnxruntime
import torch
from onnx_models import (
    FORMS,
    Subject,
    Timing,
    clear,
    expected_logits,
    load_demo,
    load_shape,
    measure_export,
    measure_session,
    measure_torch,
)
from part import Part, run_part
from shapes import SMALL

from graphprune.ir.placement import place

CUDA = "CUDAExecutionProvider"
TINY = Timing(16, 4, 1)


def call(*arguments: str) -> dict[str, Any]:
    """One command of graphprune in a process of its own; its JSON. Raises RuntimeError with the last line it said."""
    start = "from graphprune.cli.main import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", start, *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return dict(json.loads(done.stdout))


def measure_subject(part: Part, subject: Subject, provider: str) -> None:
    """Exports on the provider, then transformers' own class, then the exports on the processor."""
    clear(subject)
    expected: list[torch.Tensor] = []
    for dtype in dict.fromkeys(kind for kind, _ in FORMS.values()):
        graph = subject.graph(dtype)
        expected = expected or expected_logits(place(graph, part.device))
        for form in (form for form, (kind, _) in FORMS.items() if kind == dtype):
            work = partial(measure_export, subject, graph, form, provider, expected)
            part.attempt(work, model=subject.name, what=form, provider=provider)
    for dtype, kind in ((torch.float32, "fp32"), (torch.float16, "fp16")):
        row = {"model": subject.name, "what": f"transformers {kind}", "provider": f"torch, {subject.device.type}"}
        part.attempt(partial(measure_torch, subject, dtype), **row)
    for form in list(FORMS)[:2] if provider != "cpu" else ():
        work = partial(measure_session, subject, form, "cpu", expected)
        part.attempt(work, model=subject.name, what=form, provider="cpu")


def generate(subject: Subject, provider: str) -> Mapping[str, Any]:
    """The command `generate`; says what it ran on."""
    answer = call("generate", str(subject.folder), "def read(path):", "--tokens", "16", "--provider", provider)
    print(answer, flush=True)
    return {"provider": answer["provider"]}


def bench(part: Part, subject: Subject, provider: str) -> Mapping[str, Any]:
    """The command `bench`; a row for each model that it measures."""
    timing = subject.timing
    sizes = {"--context": timing.context, "--tokens": timing.tokens, "--runs": timing.runs}
    given = [str(word) for pair in sizes.items() for word in pair]
    for found in call("bench", str(subject.folder), *given, "--provider", provider)["results"]:
        kinds = {kind: found[f"{kind}_tokens_per_second"] for kind in ("prefill", "decode")}
        speed = {kind: rate and round(rate, 1) for kind, rate in kinds.items()}  # None where runs were far apart
        part.add(model=found["model"], what="graphprune bench", provider=provider, **speed)
    return {}


def measure(part: Part) -> None:
    provider, timing = ("cpu", TINY) if part.tiny else ("cuda", Timing())
    if provider == "cuda" and CUDA not in onnxruntime.get_available_providers():
        raise SystemExit(f"onnxruntime {onnxruntime.__version__} has no {CUDA}: bring onnxruntime-gpu in pieces")
    print(f"onnxruntime {onnxruntime.__version__}", flush=True)
    demo = Subject("demo", load_demo, part.work / "onnx-demo", part.device, timing)
    large = Subject("125M", partial(load_shape, SMALL, part.device), part.work / "onnx-125M", part.device, timing)
    for subject in (demo,) if part.tiny else (demo, large):
        measure_subject(part, subject, provider)
    part.attempt(partial(generate, demo, provider), model="demo", what="graphprune generate")
    for subject in (demo,) if part.tiny else (demo, large):
        part.attempt(partial(bench, part, subject, provider), model=subject.name, what="graphprune bench: all of it")


if __name__ == "__main__":
    run_part("onnx-cuda", measure)
