"""How capture, axes, groups and a cut grow with depth: a Llama of 2 to 128 layers of the 8B shape, without weights.

    python benchmarks/analysis_speed.py

Writes benchmarks/results/analysis_speed.jsonl, docs/analysis-speed.svg, and its section of docs/performance.md.
"""

import argparse
import json
import math
import os
import platform
import random
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shape_8b import SHAPE, best_of, timed

from graphprune.reporting import charts

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "analysis_speed.jsonl"
PAGE, PLOT = ROOT / "docs" / "performance.md", ROOT / "docs" / "analysis-speed.svg"
LAYERS = (2, 4, 8, 16, 32, 64, 128)
WHOLE = 8  # layers up to which the whole trace is timed too
STEPS = ("capture", "axes", "groups", "cut")
COLOURS = {"capture": "#8a5a00", "axes": "#1f6feb", "groups": "#1a7f37", "cut": "#b3261e", "whole": "#777777"}
START, END = "<!-- analysis speed: begin -->", "<!-- analysis speed: end -->"


def make_model(layers: int) -> Any:
    import torch
    import transformers

    options = {k: v for k, v in SHAPE.items() if k not in ("architectures", "model_type", "dtype")}
    config = transformers.LlamaConfig(**{**options, "num_hidden_layers": layers}, dtype=torch.bfloat16)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def measure(layers: int) -> dict[str, Any]:
    """Processor seconds of every step at one depth; imports and a first capture are done before."""
    from graphprune.analysis.analyse import analyze_axes
    from graphprune.axes.inference import infer
    from graphprune.axes.rules import all_rules
    from graphprune.frontend.source import capture
    from graphprune.ir.plan import Plan
    from graphprune.rewriting.apply import apply

    model = make_model(layers)
    capture(make_model(3))
    graph, capturing = timed(lambda: capture(model))
    _, inferring = best_of(3, lambda: infer(graph, all_rules()))
    analysis, analysing = best_of(3, lambda: analyze_axes(graph))
    rng = random.Random(0)
    keep = {g.id: tuple(sorted(rng.sample(range(g.units), g.units // 2))) for g in analysis.groups.prunable()}
    plan = Plan({id: units for id, units in keep.items() if units})
    _, cutting = timed(lambda: apply(graph, plan))
    found: dict[str, Any] = {"layers": layers, "nodes": len(graph.nodes), "groups_found": len(analysis.groups.groups)}
    seconds = {"capture": capturing.cpu, "axes": inferring.cpu, "groups": analysing.cpu - inferring.cpu}
    found |= {**seconds, "cut": cutting.cpu, "wall": capturing.wall}
    return found | ({"whole": measure_whole(model)} if layers <= WHOLE else {})


def measure_whole(model: Any) -> float:
    """Processor seconds of a capture that traces every layer."""
    from graphprune.frontend.tracing.normalise import capture_module
    from graphprune.models.decoder import decoder_contract
    from graphprune.models.patches import transformers_patches

    def work() -> Any:
        return capture_module(*decoder_contract(model), "model.", transformers_patches)

    return timed(work)[1].cpu


def run(layers: int) -> dict[str, Any]:
    """One depth in a process of its own."""
    command = [sys.executable, __file__, "--only", str(layers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"load": round(os.getloadavg()[0], 1), "date": str(date.today())}


def growth(rows: list[dict[str, Any]], step: str) -> float:
    """The exponent with which a step grows over the last doublings: 1 is linear, 2 quadratic."""
    first, last = rows[-3], rows[-1]
    return math.log(last[step] / first[step]) / math.log(last["nodes"] / first["nodes"])


def section(rows: list[dict[str, Any]]) -> str:
    """The part of the page between the markers."""
    cells = [[f"{r['layers']}", f"{r['nodes']:,}", *(f"{r[s]:.2f}" for s in STEPS), whole(r)] for r in rows]
    lines = [
        "| layers | nodes | capture | axes | groups | cut by half | whole trace |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in cells]
    exponents = ", ".join(f"{step} {growth(rows, step):.2f}" for step in STEPS)
    loads = f"{min(r['load'] for r in rows)} to {max(r['load'] for r in rows)}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("graphprune", "torch", "transformers"))
    return f"""{START}
## Depth

Measured on {rows[-1]["date"]} with {versions}, Python {platform.python_version()}, on {os.cpu_count()} cores that
others shared (load {loads}), with one torch thread, by

    python benchmarks/analysis_speed.py

The 8B shape above at 2 to 128 layers; seconds of processor time, each depth in a process of its own, after imports and
one small capture. "Whole trace" is what capture takes where blocks do not repeat.

{chr(10).join(lines)}

From {rows[-3]["layers"]} to {rows[-1]["layers"]} layers time grows with nodes to the power of: {exponents}.
One is linear.

![seconds against nodes](analysis-speed.svg)
{END}"""


def whole(row: dict[str, Any]) -> str:
    return f"{row['whole']:.2f}" if "whole" in row else "-"


def plot(rows: list[dict[str, Any]]) -> str:
    """Seconds against nodes, both on logarithmic scales: a straight line of slope one is linear growth."""
    width, height, left, bottom, right = 720, 420, 60, 44, 100
    nodes = [r["nodes"] for r in rows]
    values = [r[step] for r in rows for step in (*STEPS, "whole") if step in r]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    span = math.log10(nodes[-1] / nodes[0])

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (width - left - right) * math.log10(x / nodes[0]) / span
        return across, 12 + (height - bottom - 12) * (high - math.log10(y)) / (high - low)

    parts = [charts.box(0, 0, width, height, "#ffffff")]
    for power in range(low, high + 1):
        y = place(nodes[0], 10.0**power)[1]
        parts.append(charts.box(left, y, width - left - right, 0.5, "#bbbbbb"))
        parts.append(charts.text(left - 8, y + 4, f"{10.0**power:g} s", "end"))
    parts += [charts.text(place(count, 1)[0], height - 22, f"{count:,}", "middle") for count in nodes]
    parts.append(charts.text((width - right + left) / 2, height - 5, "nodes", "middle"))
    for step, colour in COLOURS.items():
        points = [place(r["nodes"], r[step]) for r in rows if step in r]
        parts.append(charts.curve([f"{x:.1f},{y:.1f}" for x, y in points], colour, 2))
        parts.append(charts.text(points[-1][0] + 8, points[-1][1] + 4, step))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
    return f'{head}font-size="12" role="img" aria-label="seconds against nodes">{"".join(parts)}</svg>\n'


def insert(page: str, text: str) -> str:
    """The page with this section in its place, or at the end where it has none yet."""
    before, found, rest = page.partition(START)
    return before + text + rest.partition(END)[2] if found else f"{page.rstrip()}\n\n{text}\n"


def read_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def measure_all(fresh: bool) -> None:
    """Measure the depths that have no result yet, each written as soon as it is there."""
    if fresh:
        RESULTS.unlink(missing_ok=True)
    known = {row["layers"] for row in read_rows()}
    for layers in LAYERS:
        if layers not in known:
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run(layers)) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, help="measure one depth in this process, print JSON")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--page-only", action="store_true", help="write page and plot from the results there are")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only)), flush=True)
        return
    if not options.page_only:
        measure_all(options.fresh)
    rows = read_rows()
    PLOT.write_text(plot(rows), encoding="utf-8")
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), section(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
