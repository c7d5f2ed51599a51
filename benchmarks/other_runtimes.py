"""Which runtimes beside onnxruntime take a compiled model: OpenVINO, ExecuTorch, llama.cpp and mlx-lm, tried here.

    pip install openvino executorch torchao llama-cpp-python 'mlx[cpu]' mlx-lm
    python benchmarks/other_runtimes.py

Compiles the embedded model twice, with equal layers and with layers that differ, and prints a table: the largest
difference of logits as a share of the largest logit, or the error. A runtime that is not installed is said to be so.
Each is tried in a process of its own. docs/runtimes.md has what was found.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy
import torch

BACKENDS = ("huggingface", "onnx", "ort", "ort{precision=int4}", "gguf{precision=f32}", "openelm")
PACKAGES = {"openvino": "openvino", "executorch": "executorch", "llama.cpp": "llama-cpp-python", "mlx": "mlx-lm"}


def reference(out: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(out / "graphprune" / "reference.safetensors")


def distance(found: Any, wanted: torch.Tensor) -> float:
    return float(numpy.abs(numpy.asarray(found) - wanted.numpy()).max() / wanted.abs().max())


def try_openvino(out: Path, place: str) -> float:
    """A prompt and a cached step."""
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
    return max(
        distance(first["logits"], expected["prefill"]),
        distance(logits[:, -1], expected["cached steps"][:, 0]),
    )


def try_executorch(out: Path, _: str) -> float:
    """The checkpoint through transformers' exporter and XNNPACK, one token with a static cache."""
    import transformers
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime
    from transformers.integrations.executorch import TorchExportableModuleForDecoderOnlyLM

    generic = (out / "modeling_graphprune.py").is_file()
    loader: Any = transformers.AutoModelForCausalLM
    model = loader.from_pretrained(out, trust_remote_code=generic, dtype=torch.float32).eval()
    model.generation_config.update(use_cache=True, cache_implementation="static")
    model.generation_config.cache_config = {"batch_size": 1, "max_cache_len": 64}
    token, place = torch.tensor([[1]]), torch.tensor([0])
    exported = TorchExportableModuleForDecoderOnlyLM(model).export(input_ids=token, cache_position=place)
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    with tempfile.NamedTemporaryFile(suffix=".pte") as file:
        file.write(program.buffer)
        file.flush()
        logits = Runtime.get().load_program(file.name).load_method("forward").execute([token, place])[0]
    with torch.no_grad():
        return distance(logits.detach(), model(token).logits)


def try_llama(out: Path, place: str) -> float:
    from graphprune.artefacts.gguf_check import check_gguf

    return max(check.difference for check in check_gguf(out / place, reference(out)) if "tokens" not in check.name)


def try_mlx(out: Path, place: str) -> float:
    """A prompt, in float32; the weights are stored in bf16."""
    import mlx.core
    from mlx_lm.utils import load_model

    expected, model = reference(out), load_model(out / place)[0]
    model.set_dtype(mlx.core.float32)
    logits = model(mlx.core.array(expected["input.prompt"].numpy()))
    return distance(numpy.array(logits), expected["prefill"])


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
        return f"{json.loads(done.stdout.splitlines()[-1]):.1e}"
    lines = [line for line in done.stderr.splitlines() if "Error" in line]
    return f"does not: {(lines or ['it ended'])[-1].strip()[:120]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
            options = graphprune.CompileOptions("demo", "60%", out, samples=16, uniform=uniform, backends=BACKENDS)
            graphprune.compile(options)
            for runtime, places in FILES.items():
                try:
                    label = f"{runtime} {version(PACKAGES[runtime])}"
                except PackageNotFoundError:
                    print(f"| {runtime} | not installed |")
                    continue
                for place in places:
                    print(f"| {label} | {form} | {place} | {in_process(runtime, out, place)} |", flush=True)


if __name__ == "__main__":
    main()
