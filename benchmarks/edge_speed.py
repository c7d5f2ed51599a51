"""Speed, size and cost of the ONNX models of a 100M-class Llama with random weights, dense and pruned, in one run.

    python benchmarks/edge_speed.py

Writes the page docs/edge-speed.md. Models stand in OUT and are made again only with --fresh. The comparison with the
graphs of onnxruntime-genai's own model builder needs `pip install onnxruntime-genai==0.18.0`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edge_speed_page import page

PAGE = Path(__file__).parent.parent / "docs" / "edge-speed.md"
SHAPE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 3072,
    "vocab_size": 16384,
    "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}
# Above the 2 GB that one protobuf may hold.
LARGE = SHAPE | {
    "hidden_size": 1536,
    "num_hidden_layers": 20,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "intermediate_size": 6144,
}
BACKENDS = ("ort", "ort{precision=int4}", "ort{precision=int4,embeddings=true,folder=onnx-int4-all}")
FOLDERS = ("onnx-ort", "onnx-int4", "onnx-int4-all")
SHAPES = ("dense", "uniform", "per-layer")


def make_source(folder: Path, shape: dict[str, Any]) -> None:
    """A checkpoint with random weights and a tokenizer that the model builder can copy."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models

    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)


def plan_of(graph: Any, name: str) -> Any:
    """Half of the heads and MLP channels: in every layer, or from all in the first layers to hardly any in the last."""
    from graphprune import Plan, analyze

    keep = {}
    for kind in ("attention", "mlp"):
        members = [group for group in analyze(graph).groups if group.kind == kind]
        for index, group in enumerate(members):
            share = 0.5 if name == "uniform" else 1 - index / (len(members) - 1)
            step = 1 if kind == "attention" else group.units // 16
            keep[group.id] = tuple(range(max(step, round(share * group.units / step) * step)))
    return Plan(keep if name in SHAPES[1:] else {})


def export_stage(source: Path, name: str, out: Path, backends: list[str]) -> dict[str, Any]:
    """Capture, cut and write, with the seconds and the peak memory of this process."""
    import graphprune.backends.onnx.translate  # noqa: F401  (its imports are not the export's)
    from graphprune import analyze, apply, capture
    from graphprune.artefacts.export import load_backends
    from graphprune.artefacts.staging import folder_size
    from graphprune.evaluation.bench_worker import peak_memory

    imports, began = peak_memory(), time.perf_counter()
    graph = capture(source)
    captured = time.perf_counter() - began
    graph = apply(graph, plan_of(graph, name))
    result = {"imports": imports, "capture": captured, "parameters": graph.parameter_count()}
    groups = analyze(graph)
    result["polynomial"] = groups.costs.weight_bytes(groups.sizes())
    for backend in load_backends(backends):
        start = time.perf_counter()
        backend.export(graph, out)
        place = getattr(backend, "place", "")
        size = folder_size(out / place, "model.onnx*" if place else "*.safetensors")
        result[place or backend.name] = {"seconds": time.perf_counter() - start, "peak": peak_memory(), "bytes": size}
    return result


def in_process(*arguments: str) -> dict[str, Any]:
    """A stage of this script in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--stage", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def export_once(out: Path, source: Path, name: str, backends: tuple[str, ...]) -> dict[str, Any]:
    """The figures of an export, from the last run where it is still there."""
    known = out / name / "export.json"
    if not known.is_file():
        found = in_process("export", str(source), name, str(out / name), *backends)
        known.write_text(json.dumps(found), encoding="utf-8")
    return dict(json.loads(known.read_text(encoding="utf-8")))


def build_theirs(out: Path, name: str) -> Path | None:
    """The same model by onnxruntime-genai's builder; None where that is not installed."""
    folder = out / f"builder-{name}"
    if not (folder / "model.onnx").is_file():
        module = "onnxruntime_genai.models.builder"
        command = [sys.executable, "-W", "ignore", "-m", module, "-i", str(out / name), "-o", str(folder)]
        done = subprocess.run(
            [*command, "-p", "fp32", "-e", "cpu", "-c", str(out / "cache")], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
            return None
    return folder


def measure_speed(out: Path, theirs: dict[str, Path | None], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from graphprune.evaluation.bench import Setting, Subject, bench

    subjects = [Subject(f"{name}/{place}", out / name / place) for place in FOLDERS for name in SHAPES]
    for name, folder in theirs.items():
        if folder is not None:
            subjects.append(Subject(f"{name}/onnx-ort in genai", out / name / "onnx-ort", "genai"))
            subjects.append(Subject(f"{name}/builder in genai", folder, "genai"))
    setting = Setting(arguments.context, arguments.tokens, arguments.runs, arguments.threads, "cpu")
    found = bench(
        subjects, setting, lambda stage, done=0, total=0, *_, **__: print(f"{stage} {done}/{total}", flush=True)
    )
    return [vars(speed) | {"subject": speed.subject.label} for speed in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("/tmp/graphprune-benchmarks/edge"), help="folder for models")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is written")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip-large", action="store_true", help="leave out the model above 2 GB")
    parser.add_argument("--page-only", action="store_true", help="write the page from the last run")
    parser.add_argument("--fresh", action="store_true", help="make all models again")
    parser.add_argument("--stage", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        _, source, name, out, *backends = arguments.stage
        print(json.dumps(export_stage(Path(source), name, Path(out), backends)))
        return
    out = arguments.out
    if arguments.fresh:
        shutil.rmtree(out, ignore_errors=True)
    if not (out / "source").is_dir():
        make_source(out / "source", SHAPE)
    exports = {name: export_once(out, out / "source", name, (*BACKENDS, "huggingface")) for name in SHAPES}
    if not arguments.skip_large:
        if not (out / "large-source").is_dir():
            make_source(out / "large-source", LARGE)
        exports["large"] = export_once(out, out / "large-source", "large", ("ort",))
    theirs = {name: build_theirs(out, name) for name in SHAPES[:2]}
    load = os.getloadavg()[0]
    if not arguments.page_only:
        speeds = measure_speed(out, theirs, arguments)
        (out / "speeds.json").write_text(json.dumps({"load": load, "speeds": speeds}, default=str), encoding="utf-8")
    found = json.loads((out / "speeds.json").read_text(encoding="utf-8"))
    arguments.page.write_text(page(exports, found["speeds"], arguments, found["load"]), encoding="utf-8")


if __name__ == "__main__":
    main()
