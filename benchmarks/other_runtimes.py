"""Which runtimes beside onnxruntime take a compiled model: OpenVINO, ExecuTorch, llama.cpp, mlx-lm, vLLM.

    pip install openvino executorch torchao llama-cpp-python 'mlx[cpu]' mlx-lm
    python benchmarks/other_runtimes.py [--model demo] [--target 60%] [--data TEXT] [--vllm PYTHON]

Compiles a model twice, with equal layers and with layers that differ, and once for vLLM, and prints a table: the
largest difference of logits as a share of the largest logit, or the error; for vLLM that of the logarithms of how
likely it finds the tokens of a prompt, and how many of its greedy tokens are the graph's. A runtime that is not
installed is said to be so. Each is tried in a process of its own; vLLM by the Python of an environment that has it,
since it wants other versions than graphprune's, and with another model than the embedded one, for whose heads it has no
kernel on a processor. docs/runtimes.md has what was found.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

if TYPE_CHECKING:
    from graphprune.running.comparison import Check

BACKENDS = ("huggingface", "onnx", "ort", "ort{precision=int4}", "gguf{precision=f32}", "openelm")
VLLM = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
PACKAGES = {"openvino": "openvino", "executorch": "executorch", "llama.cpp": "llama-cpp-python", "mlx": "mlx-lm"}


def reference(out: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(out / "graphprune" / "reference.safetensors")


def distance(found: Any, wanted: torch.Tensor) -> float:
    return float(numpy.abs(numpy.asarray(found) - wanted.numpy()).max() / wanted.abs().max())


def told(apart: float, made: Sequence[int], expected: dict[str, torch.Tensor]) -> str:
    """How far logits lie apart, and how many greedy tokens are the graph's."""
    wanted = expected["greedy.tokens"].tolist()
    pairs = zip(made, wanted, strict=True)
    equal = next((index for index, (one, own) in enumerate(pairs) if one != own), len(wanted))
    return f"{apart:.1e}, {equal} of {len(wanted)} tokens"


def try_openvino(out: Path, place: str) -> str:
    """A prompt and a cached step, and greedy tokens."""
    import openvino

    expected, core = reference(out), openvino.Core()
    model = core.compile_model(core.read_model(out / place / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    prompt = expected["input.prompt"].numpy()
    length = prompt.shape[1]
    shapes = {port.get_any_name(): port.get_partial_shape() for port in model.inputs}
    feed = {"input_ids": prompt, "attention_mask": numpy.ones_like(prompt), "position_ids": numpy.arange(length)[None]}
    for name, shape in shapes.items():
        if name.startswith("past"):
            feed[name] = numpy.zeros((1, shape[1].get_length(), 0, shape[3].get_length()), numpy.float32)
    first = {port.get_any_name(): values for port, values in model(feed).items()}
    past = {name.replace("present", "past_key_values"): v for name, v in first.items() if name.startswith("present")}
    step = {"attention_mask": numpy.ones((1, length + 1), int), "position_ids": numpy.array([[length]]), **past}
    second = model({"input_ids": expected["input.steps"].numpy()[:, :1], **step})
    logits = next(values for port, values in second.items() if port.get_any_name() == "logits")
    apart = max(
        distance(first["logits"], expected["prefill"]),
        distance(logits[:, -1], expected["cached steps"][:, 0]),
    )
    made, values = list[int](), first
    for at in range(length, length + len(expected["greedy.tokens"])):
        made.append(int(values["logits"][0, -1].argmax()))
        past = {name.replace("present", "past_key_values"): v for name, v in values.items() if name != "logits"}
        step = {"attention_mask": numpy.ones((1, at + 1), int), "position_ids": numpy.array([[at]]), **past}
        found = model({"input_ids": numpy.array([[made[-1]]]), **step})
        values = {port.get_any_name(): array.copy() for port, array in found.items()}
    return told(apart, made, expected)


def try_executorch(out: Path, _: str) -> str:
    """The checkpoint through transformers' exporter and XNNPACK with a static cache: a prompt, and greedy tokens."""
    import transformers
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime
    from transformers.integrations.executorch import TorchExportableModuleForDecoderOnlyLM

    generic = (out / "modeling_graphprune.py").is_file()
    loader: Any = transformers.AutoModelForCausalLM
    model = loader.from_pretrained(out, trust_remote_code=generic, dtype=torch.float32).eval()
    model.generation_config.update(use_cache=True, cache_implementation="static")
    model.generation_config.cache_config = {"batch_size": 1, "max_cache_len": 128}
    token, place = torch.tensor([[1]]), torch.tensor([0])
    exported = TorchExportableModuleForDecoderOnlyLM(model).export(input_ids=token, cache_position=place)
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    with tempfile.NamedTemporaryFile(suffix=".pte") as file:
        file.write(program.buffer)
        file.flush()
        method = Runtime.get().load_program(file.name).load_method("forward")
        expected, rows, made = reference(out), list[torch.Tensor](), list[int]()
        prompt = expected["input.prompt"][0].tolist()
        for at in range(len(prompt) + len(expected["greedy.tokens"]) - 1):
            word = prompt[at] if at < len(prompt) else made[-1]
            rows.append(method.execute([torch.tensor([[word]]), torch.tensor([at])])[0].clone()[0, -1])
            if at + 1 >= len(prompt):
                made.append(int(rows[-1].argmax()))
    return told(distance(torch.stack(rows[: len(prompt)]), expected["prefill"][0]), made, expected)


def try_llama(out: Path, place: str) -> str:
    from graphprune.artefacts.checks.gguf_check import check_gguf

    return told_by(list(check_gguf(out / place, reference(out))))


def try_mlx(out: Path, place: str) -> str:
    from graphprune.artefacts.checks.mlx_check import check_mlx

    return told_by(list(check_mlx(out / place, reference(out))))


def told_by(checks: Sequence["Check"]) -> str:
    apart = max(check.difference for check in checks if "tokens" not in check.name)
    return ", ".join([f"{apart:.1e}", *(check.detail for check in checks if "tokens" in check.name)])


def try_vllm(out: Path, place: str, python: str) -> str:
    """Tokens after the prompt, and how likely each token of the prompt is, by vLLM on a processor."""
    expected = reference(out)
    prompt, wanted = expected["input.prompt"][0].tolist(), expected["greedy.tokens"].tolist()
    command = [
        python,
        str(Path(__file__).with_name("vllm_tokens.py")),
        str(out / place),
        json.dumps(prompt),
        str(len(wanted)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **VLLM}, check=False)
    if done.returncode:
        return failure(done.stderr)
    answer = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"tokens"')))
    likely = torch.log_softmax(expected["prefill"][0], -1)[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
    apart = (torch.tensor(answer["likely"]) - likely).abs().max().item()
    return told(apart, answer["tokens"], expected)


TRIALS: dict[str, Any] = {
    "openvino": try_openvino,
    "executorch": try_executorch,
    "llama.cpp": try_llama,
    "mlx": try_mlx,
}
FILES = {
    "openvino": ("onnx", "onnx-ort", "onnx-int4"),
    "executorch": ("checkpoint",),
    "llama.cpp": ("gguf/model-f32.gguf",),
    "mlx": ("openelm",),
}


def in_process(runtime: str, out: Path, place: str) -> str:
    command = [sys.executable, "-W", "ignore", __file__, "--trial", runtime, str(out), place]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return str(json.loads(done.stdout.splitlines()[-1]))
    return failure(done.stderr)


def failure(said: str) -> str:
    lines = [line for line in said.splitlines() if "Error" in line]
    return f"does not: {(lines or ['it ended'])[-1].strip()[:120]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--target", default="60%")
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--vllm", help="a Python that has vLLM")
    parser.add_argument("--trial", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trial:
        runtime, out, place = arguments.trial
        print(json.dumps(TRIALS[runtime](Path(out), place)))
        return
    import graphprune

    with tempfile.TemporaryDirectory() as name:
        for form, uniform in (("equal layers", True), ("layers that differ", False)):
            out = Path(name) / form.replace(" ", "-")
            common: dict[str, Any] = {"samples": 16, "data": arguments.data}
            options = graphprune.CompileOptions(
                arguments.model, arguments.target, out, uniform=uniform, backends=BACKENDS, **common
            )
            graphprune.compile(options)
            for runtime, places in FILES.items():
                try:
                    label = f"{runtime} {version(PACKAGES[runtime])}"
                except PackageNotFoundError:
                    print(f"| {runtime} | not installed |")
                    continue
                for place in places:
                    print(f"| {label} | {form} | {place} | {in_process(runtime, out, place)} |", flush=True)
        if arguments.vllm:
            out = Path(name) / "vllm"
            graphprune.compile(
                graphprune.CompileOptions(arguments.model, arguments.target, out, runtime="vllm", **common)
            )
            print(f"| vLLM | layers that differ | decilm | {try_vllm(out, 'decilm', arguments.vllm)} |", flush=True)


if __name__ == "__main__":
    main()
