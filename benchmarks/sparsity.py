"""Zeros in patterns: every solver on one model, its error, perplexity or bits per byte, seconds and memory.

    python benchmarks/sparsity.py MODEL --data TEXT --held-out TEXT [--patterns 50%,2:4] [--methods a,b] [--seeds 1]
        [--samples 128] [--length 128] [--bytes 100000 | --tokens 8192 --window 512 --no-bos] [--work FOLDER]
        [--prune 80%] [--tasks NAMES --eval-data FOLDER --task-limit 200]

One cell is a process of its own, so that its peak memory is its own; with --work cells are kept there and not measured
again. Text is measured as `graphprune compare` does: windows of 256 behind BOS, or with --tokens, --window and --no-bos
windows without overlap. With --prune the model is cut first, by `taylor` with least squares. With --tasks the
last column is the mean accuracy over them, as `graphprune eval` asks. Methods are specs of the pass `sparsify` without
the pattern, by names that are below, or as `name=spec options`.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphprune.ir.graph import Graph

METHODS: Mapping[str, str] = {
    "magnitude": "method=magnitude",
    "wanda": "method=wanda",
    "sparsegpt": "method=sparsegpt",
    "fista": "method=fista",
    "fista-wanda": "method=fista,start=wanda",
    "fista-paper": "method=fista,start=wanda,search=paper",
    "mask-ls": "method=least-squares",
    "mask-ls-wanda": "method=least-squares,start=wanda",
    "alternating": "method=alternating",
}
PRUNED = "prune{target=%s,compensation=least-squares,round_to=4}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--patterns", default="50%,2:4")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--bytes", type=int, default=100_000)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--no-bos", action="store_true")
    parser.add_argument("--prune", default="")
    parser.add_argument("--tasks", default="")
    parser.add_argument("--eval-data", type=Path)
    parser.add_argument("--task-limit", type=int, default=200)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--cell", help="of the process of one cell")
    given = parser.parse_args()
    if given.cell is not None:
        print(json.dumps(measure(given, json.loads(given.cell))))
        return
    cells = [{"method": "dense", "pattern": "", "seed": 0}]
    for pattern in given.patterns.split(","):
        chosen = [each.strip() for each in given.methods.split(",")]
        cells += [{"method": m, "pattern": pattern, "seed": s} for m in chosen for s in range(given.seeds)]
    print("| pattern | method | seed | perplexity | bits per byte | zeros | seconds | of processor | peak GB | tasks |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        for cell in cells:
            print(row(cell, run(given, cell, given.work or Path(scratch))), flush=True)


def run(given: argparse.Namespace, cell: Mapping[str, Any], work: Path) -> Mapping[str, Any]:
    """A cell's numbers, kept in a file that is named by all that decides them."""
    asked = [given.samples, given.length, given.bytes, given.tokens, given.window, "no-bos" if given.no_bos else ""]
    texts = [given.data.stem, given.held_out.stem]
    limit = given.task_limit if given.tasks else ""
    told = [given.model.name, given.prune, *texts, *asked, *cell.values(), given.tasks, limit]
    path = work / ("-".join(str(each).replace("/", "_") for each in told if each not in (None, "")) + ".json")
    if path.is_file():
        found: Mapping[str, Any] = json.loads(path.read_text())
        return found
    command = [sys.executable, __file__, *sys.argv[1:], "--cell", json.dumps(cell)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(done.stdout.splitlines()[-1])
    return run(given, cell, work)


def row(cell: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    bits, tasks = ("" if found.get(name) is None else f"{found[name]:.3f}" for name in ("bits", "tasks"))
    return (
        f"| {cell['pattern'] or '-'} | {cell['method']} | {cell['seed']} | {found['perplexity']:.3f} | {bits} | "
        f"{found['zeros']:,} | {found['seconds']:.0f} | {found['processor']:.0f} | {found['peak']:.2f} | {tasks} |"
    )


def measure(given: argparse.Namespace, cell: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: capture, perhaps cut, make sparse, measure."""
    import torch

    import graphprune
    from graphprune.data.calibration import prepare_text
    from graphprune.data.tokens import encode
    from graphprune.pipeline.passes import run_passes
    from graphprune.running.perplexity import perplexity
    from graphprune.spec import parse_spec
    from graphprune.weights.patterns import kept_entries

    source = graphprune.capture(str(given.model), dtype=torch.float32)
    text = prepare_text(source, str(given.data), given.samples, given.length, cell["seed"])
    context = graphprune.Context(calibration=text.batches, draw=text.draw, seed=cell["seed"], source=source)
    specs = [PRUNED % given.prune] if given.prune else []
    if cell["method"] != "dense":
        name, _, own = cell["method"].partition("=")
        specs.append(f"sparsify{{pattern={cell['pattern']},{own or METHODS[name]}}}")
    began, spent = time.perf_counter(), time.process_time()
    made = run_passes(source, [parse_spec("passes", spec) for spec in specs], context)
    seconds, processor = time.perf_counter() - began, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kB on Linux
    assert text.tokenizer is not None
    held = given.held_out.read_text(encoding="utf-8")
    part = held if given.tokens else held.encode()[: given.bytes].decode(errors="ignore")
    tokens = encode(text.tokenizer, [part])[: given.tokens]
    options: dict[str, Any] = {"stride": given.window} if given.tokens else {}
    size = None if given.tokens else len(part.encode())
    bos = None if given.no_bos else text.bos
    found = perplexity(made, tokens, given.window, 4, bos=bos, text_bytes=size, **options)
    zeros = sum(int((~kept).sum()) for kept in kept_entries(made.companions).values())
    return {
        "perplexity": found.perplexity,
        "bits": found.bits_per_byte,
        "zeros": zeros,
        "seconds": seconds,
        "processor": processor,
        "peak": peak,
        "tasks": accuracy(given, made, text.tokenizer) if given.tasks else None,
    }


def accuracy(given: argparse.Namespace, made: "Graph", tokenizer: Any) -> float:
    """The mean over the tasks of their accuracies."""
    from graphprune.evaluation.language_model import of_graph
    from graphprune.evaluation.task_scores import score_tasks

    scores = score_tasks(of_graph(made, tokenizer), given.tasks.split(","), given.eval_data, given.task_limit)
    values = {score.task: score.value for score in reversed(scores) if score.metric == "acc"}
    print(values, file=sys.stderr)
    return mean(values[name] for name in given.tasks.split(","))


if __name__ == "__main__":
    main()
