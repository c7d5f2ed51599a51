"""The shape of Llama-3.1-8B without its weights: capture, axis inference and a dry run, beside Torch-Pruning's groups.

    python benchmarks/shape_8b.py

Writes the page docs/performance.md. Every measurement runs in a process of its own and is kept in OUT/shape_8b.jsonl,
so that a second run goes on where the first one stopped. Torch-Pruning is needed by this script alone:
`pip install torch-pruning==1.6.1`; without it the comparison is left out.
"""

import argparse
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

SHAPE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "dtype": "bfloat16",
}
# Torch-Pruning needs real tensors, so its models are shallow or narrow, and have as many key heads as query heads.
MULTI_HEAD = {"num_key_value_heads": 32, "vocab_size": 2048, "dtype": "float32"}
NARROW = {
    **MULTI_HEAD,
    "hidden_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 3584,
}
GROUPED = {**NARROW, "num_key_value_heads": 2, "num_hidden_layers": 1}
CAPTURE = """## What capture costs

The seconds above include what a process does once: importing transformers' model and torch.export.

Tracing costs about half a second of processor time for each block of a Llama: torch.export runs the model's Python
code on tensors without values, with sympy expressions for batch, sequence and past. So blocks that repeat are traced
once:

- the model is run on tensors without values and with plain sizes, and every call is recorded with its block;
- blocks whose calls, classes, attributes and buffers are equal, but for names and the layer's number, form a class;
- the model is traced with its first blocks alone, up to the last that is the first of its class (two of a Llama, six
  of a Gemma 3 with one full layer in six), and the graph is continued by the others;
- the result is the graph of the whole trace, node for node; the tests compare them for every family.

Nothing has to be switched on. Where blocks share parameters, are called out of turn, or where something is computed
between them, the whole model is traced, which takes longer and gives the same kind of graph
([decision 0020](decisions/0020-equal-blocks-are-traced-once.md)). Every trace is also faster than it was: garbage
collection pauses, torch's cache of results on fake tensors, which symbolic sizes nearly never hit, is off, and programs
that make constants are no longer traced twice.
"""
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


@dataclass(frozen=True)
class Clock:
    """Seconds that passed, and seconds of processor time that this process used in them."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> tuple[Any, Clock]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Clock(time.perf_counter() - wall, time.process_time() - cpu)


def best_of(times: int, work: Callable[[], Any]) -> tuple[Any, Clock]:
    """The run with the least processor time."""
    return min((timed(work) for _ in range(times)), key=lambda pair: pair[1].cpu)


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure_shape(folder: Path) -> dict[str, Any]:
    """Capture and analyse a folder that holds nothing but a configuration."""
    from graphprune.analysis.analyse import analyze
    from graphprune.frontend.source import capture

    before = peak_gigabytes()
    graph, capturing = timed(lambda: capture(folder, weights=False))
    peak = peak_gigabytes()
    groups, analysing = best_of(3, lambda: analyze(graph))
    return {
        "parameters": graph.parameter_count(),
        "nodes": len(graph.nodes),
        "groups": len(groups.groups),
        "capture": vars(capturing),
        "analyze": vars(analysing),
        "peak_gb": peak,
        "imports_gb": before,
    }


def measure_both(folder: Path) -> dict[str, Any]:
    """The groups of one model by both tools, in one process, on real tensors."""
    import torch
    import transformers

    from graphprune.analysis.analyse import analyze
    from graphprune.frontend.source import capture

    config = transformers.AutoConfig.from_pretrained(folder)
    config.use_cache = False
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    graph, capturing = timed(lambda: capture(model))
    groups, analysing = best_of(3, lambda: analyze(graph))
    ours = {"capture": vars(capturing), "analyze": vars(analysing), "groups": len(groups.groups)}
    result = {"parameters": graph.parameter_count(), "ours": ours}
    print(json.dumps(result), flush=True)  # stands where the rest is given up
    try:
        return result | {"theirs": depgraph_groups(model)}
    except Exception as error:  # whatever it raises is the finding
        line = next(iter(str(error).splitlines()), "")
        return result | {"theirs": {"error": f"{type(error).__name__}: {line[:200]}"}}


def depgraph_groups(model: Any) -> dict[str, Any]:
    """Seconds that Torch-Pruning takes to trace the model, and to build the groups of all its linear layers."""
    import torch
    import torch_pruning  # type: ignore[import-untyped,import-not-found,unused-ignore]

    example = {"input_ids": torch.zeros(1, 8, dtype=torch.long)}
    graph, building = timed(
        lambda: torch_pruning.DependencyGraph().build_dependency(
            model, example_inputs=example, output_transform=lambda out: out.logits, verbose=False
        )
    )
    groups, grouping = timed(lambda: list(graph.get_all_groups(root_module_types=[torch.nn.Linear])))
    return {"build": vars(building), "walk": vars(grouping), "groups": len(groups), "peak_gb": peak_gigabytes()}


def measure_dry_run(folder: Path) -> dict[str, Any]:
    """The dry run as a user types it: what it prints, and how long it takes."""
    start = [sys.executable, "-c", "from graphprune.cli.main import main; main()"]
    command = [*start, "compile", str(folder), "--dry-run", "--target-params", "1B"]
    done, clock = timed(lambda: subprocess.run(command, capture_output=True, text=True, check=True))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "text": done.stdout,
        "wall": clock.wall,
        "cpu": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss * 1024 / 1e9,
    }


MEASURES = {"shape": measure_shape, "dry-run": measure_dry_run, "both": measure_both}


@dataclass(frozen=True)
class Job:
    """One measurement in a process of its own, that is given up after `limit` seconds."""

    name: str
    measure: str
    config: dict[str, Any]
    limit: int


def plan_jobs(both: bool) -> list[Job]:
    jobs = [Job("shape", "shape", SHAPE, 1200), Job("dry run", "dry-run", SHAPE, 1200)]
    if both:
        full, narrow = {**SHAPE, **MULTI_HEAD}, {**SHAPE, **NARROW}
        jobs += [Job(f"4096 wide, {n} layers", "both", {**full, "num_hidden_layers": n}, 300) for n in (1, 2, 4, 8)]
        jobs += [Job(f"1024 wide, {n} layers", "both", {**narrow, "num_hidden_layers": n}, 300) for n in (8, 16, 32)]
        jobs.append(Job("1024 wide, 1 layer, 2 key heads", "both", {**SHAPE, **GROUPED}, 120))
    return jobs


def run_job(job: Job, out: Path) -> dict[str, Any]:
    """Write the configuration, measure in a new process, and return what it says."""
    folder = out / job.name.replace(" ", "-").replace(",", "")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(job.config), encoding="utf-8")
    command = [sys.executable, __file__, "--only", job.measure, "--folder", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=job.limit)
    except subprocess.TimeoutExpired as expired:
        lines = (expired.stdout or b"").decode().splitlines()
        return {**(json.loads(lines[-1]) if lines else {}), "given_up_after": job.limit}
    if done.returncode:
        raise SystemExit(f"{job.name}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result | {"date": str(date.today()), "load": round(os.getloadavg()[0], 1)}


def read_results(path: Path) -> dict[str, Any]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {entry["name"]: entry["result"] for entry in map(json.loads, lines)}


def seconds(clock: dict[str, float]) -> str:
    return f"{clock['wall']:.2f} ({clock['cpu']:.2f})"


def comparison(found: dict[str, Any]) -> str:
    """The table of both tools."""
    lines = [
        "| model | parameters | graphprune: capture | axes and groups | Torch-Pruning: trace | groups | together |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in found.items():
        if "ours" not in result:
            continue
        ours, theirs = result["ours"], result.get("theirs", {})
        cells = [name, f"{result['parameters']:,}", seconds(ours["capture"]), seconds(ours["analyze"])]
        if "build" in theirs:
            total = {key: theirs["build"][key] + theirs["walk"][key] for key in ("wall", "cpu")}
            cells += [seconds(theirs["build"]), seconds(theirs["walk"]), seconds(total)]
        else:
            cells += ["-", theirs.get("error", f"no answer after {result.get('given_up_after')} s"), "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def trim(text: str, lines: int = 24) -> str:
    """The beginning and the end of a long output."""
    rows = [row.rstrip() for row in text.splitlines()]
    if len(rows) <= 2 * lines:
        return "\n".join(rows)
    return "\n".join([*rows[:lines], f"... {len(rows) - 2 * lines} lines ...", *rows[-lines:]])


def page(found: dict[str, Any]) -> str:
    shape, dry = found["shape"], found["dry run"]
    names = ("graphprune", "torch", "transformers") + (("torch-pruning",) if len(found) > 2 else ())
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    capturing, analysing = seconds(shape["capture"]), seconds(shape["analyze"])
    cores = os.cpu_count()
    return f"""# Performance on the shape of a large model

Measured on {shape["date"]} with {versions},
Python {platform.python_version()}, {cores} cores that other work shared (load {shape["load"]}),
with one torch thread, by

    python benchmarks/shape_8b.py

Seconds are those that passed and, in brackets, those of processor time in the measured process. On a machine that does
nothing else the two come close, so the number in brackets is the one to compare.

## Llama-3.1-8B's shape, without weights

Hidden width 4096, 32 layers, 32 query and 8 key heads, intermediate width 14336, vocabulary 128256, no tied embeddings:
{shape["parameters"]:,} parameters on the meta device, captured with the cache and three symbolic sizes.

| step | measured | goal |
|---|---|---|
| capture | {capturing} s | 10 s |
| peak memory of the process | {shape["peak_gb"]:.2f} GB, of it {shape["imports_gb"]:.2f} for imports | 2 GB |
| axis inference and groups, best of 3 | {analysing} s | 1 s |

The graph has {shape["nodes"]:,} nodes and {shape["groups"]} groups.

{CAPTURE}
## The dry run

`graphprune compile FOLDER --dry-run --target-params 1B` on a folder that holds nothing but config.json:
{dry["wall"]:.0f} s ({dry["cpu"]:.0f} s of processor time), peak memory {dry["peak_gb"]:.2f} GB.

```
{trim(dry["text"])}
```

## Beside Torch-Pruning

Both tools on the very same model in one process, graphprune first. Torch-Pruning traces a real forward pass with its
gradient, so its models have weights: of full width as far as memory and time go, and narrower ones that grow in depth.
Its times are those of `build_dependency` and of `get_all_groups` for linear layers. graphprune's capture includes the
cache and three symbolic sizes, which Torch-Pruning's trace does not; after a cut, only axes and groups are found again.

The models have as many key heads as query heads, but for the last row. Torch-Pruning's trace takes less time than
graphprune's capture, which does more.

Measured on {", ".join(sorted({r["date"] for r in found.values() if "ours" in r and "date" in r}))}.

{comparison(found)}
{depth_section()}"""


def depth_section() -> str:
    """What benchmarks/analysis_speed.py measured, where it did."""
    import analysis_speed

    rows = analysis_speed.read_rows()
    return f"\n{analysis_speed.section(rows)}\n" if rows else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("/tmp/graphprune-benchmarks"), help="folder for results")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is written")
    parser.add_argument("--fresh", action="store_true", help="forget the results of earlier runs")
    parser.add_argument("--only", choices=sorted(MEASURES), help="measure one thing in this process, print JSON")
    parser.add_argument("--folder", type=Path, help="the folder with config.json that --only measures")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.only:
        print(json.dumps(MEASURES[options.only](options.folder)), flush=True)
        return
    path = options.out / "shape_8b.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        path.unlink(missing_ok=True)
    found = read_results(path)
    both = importlib.util.find_spec("torch_pruning") is not None
    for job in plan_jobs(both):
        if job.name not in found:
            found[job.name] = run_job(job, options.out)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": job.name, "result": found[job.name]}) + "\n")
        print(job.name, {key: value for key, value in found[job.name].items() if key != "text"}, flush=True)
    options.page.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
