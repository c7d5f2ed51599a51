"""What a compilation costs, and how often it does each thing: in one tree, or in two trees side by side.

    python benchmarks/compile_cost.py [--before PYTHON] [--after PYTHON] [--times 1] [--only NAME ...] [--keep FOLDER]

PYTHON is the interpreter in whose environment the tree is installed; the one that runs this is taken where none is
named. Prints a page of Markdown. Every number is taken in a process of its own, with one torch thread, before and after
in turn; of several times the least is shown. Seconds and memory include the processes that graphprune starts. Calls are
counted in a second run, under cProfile, in the first process alone; its seconds, of processor time, are longer than
those of a plain run, and leave out the processes that are waited for.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HELPS = 30
SMALLER, FEW = ("--target-params", "60%"), ("--samples", "8", "--length", "64")
# Commands by what the tables call them. MODELS names the folders they find; each is made with random weights.
RUNS: Mapping[str, tuple[str, ...]] = {
    "demo": ("compile", "demo", *SMALLER),
    "random 1M": ("compile", "random-1M", *SMALLER),
    "dry run, 8 layers": ("compile", "random-8x1024", *SMALLER, *FEW, "--dry-run"),
    "8 layers": ("compile", "random-8x1024", *SMALLER, *FEW),
}
MODELS: Mapping[str, Mapping[str, int]] = {
    "random-1M": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "random-8x1024": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
}
# Functions by name, wherever they are, and where others have the name by their first parameter too.
FUNCTIONS = (
    ("capture", "a model becomes a graph"),
    ("export_program", "torch.export is asked for a program"),
    ("verify(graph", "a graph is checked node by node"),
    ("analyze_axes", "axes, groups and costs of a graph"),
    ("analyze(graph", "the same, of which the groups alone are used"),
    ("infer(graph", "axes of a graph"),
    ("build_costs", "what a unit of every group costs"),
    ("make_group", "one group"),
    ("cost_of_graph", "the size of a graph"),
    ("parse_target", "a target such as 60% is read"),
    ("apply(graph", "a graph is cut by a plan"),
    ("check_against_masked", "the cut is compared with the masked model"),
    ("held_out_perplexity", "a graph is measured on text"),
    ("variant_measures", "the ONNX variants are measured on text"),
    ("export(self", "a backend writes"),
    ("reference(graph", "what artefacts are compared with is computed"),
    ("hash_file", "a file is hashed"),
    ("check(out", "artefacts are checked in a fresh process"),
    ("speed_measures", "speed in onnxruntime, of the source and of the result"),
)
TORCH_EXPORT = "torch.export.export"  # the one function that is not graphprune's own


@dataclass(frozen=True)
class Cost:
    """Seconds of processor time and of the clock, and the largest resident memory, in MiB."""

    cpu: float
    wall: float
    memory: float


@dataclass(frozen=True)
class Calls:
    """How often a function was called, and the seconds in it and in what it calls; None where none has the name."""

    count: int
    seconds: float


def make_model(folder: Path, shape: Mapping[str, int]) -> None:
    """A Llama of random weights, with the tokenizer of the demo."""
    import shutil

    import torch
    import transformers

    import graphprune

    found = next(Path(graphprune.__file__).parent.rglob("demo/**/tokenizer.json")).parent
    tokenizer = json.loads((found / "config.json").read_text(encoding="utf-8"))
    tokens = {k: v for k, v in tokenizer.items() if k in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**shape, **tokens, max_position_embeddings=512, tie_word_embeddings=True)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(found / name, folder / name)


def profile(file: Path, arguments: Sequence[str]) -> None:
    """Run the command in this process; writes the calls of graphprune's own functions, and of torch.export's."""
    import cProfile
    import pstats
    from importlib.metadata import entry_points

    (command,) = {e.value: e for e in entry_points(group="console_scripts", name="graphprune")}.values()
    main, profiler = command.load(), cProfile.Profile(time.process_time)
    sys.argv = ["graphprune", *arguments]
    try:
        profiler.runcall(main)
    except SystemExit as end:
        if end.code:
            raise
    modules = {n: m for n, m in list(sys.modules.items()) if n.split(".")[0] == "graphprune" or n == "torch.export"}
    names = {str(getattr(m, "__file__", None)): n for n, m in modules.items()}
    rows = pstats.Stats(profiler).stats.items()  # type: ignore[attr-defined]
    own = [(names[place], place, line, name, c[1], c[3]) for (place, line, name), c in rows if place in names]
    file.write_text(json.dumps(own), encoding="utf-8")


def definition(place: str, line: int) -> str:
    """The text of a function from its `def` on; a decorator stands before it."""
    lines = Path(place).read_text(encoding="utf-8").splitlines()[line - 1 : line + 5]
    return "def " + "\n".join(lines).partition("def ")[2]


def find_calls(rows: Sequence[Sequence[Any]], sought: str) -> Calls | None:
    """The calls of every function of this name, or of torch.export's."""
    if sought == TORCH_EXPORT:
        found = [row for row in rows if row[0] == "torch.export" and row[3] == "export"]
    else:
        name, _, first = sought.partition("(")
        pattern = re.compile(rf"def {name}\(\s*{first}")
        found = [row for row in rows if row[3] == name and row[0] != "torch.export"]
        found = [row for row in found if pattern.match(definition(row[1], row[2]))]
    return Calls(sum(row[4] for row in found), sum(row[5] for row in found)) if found else None


def run(command: Sequence[str], folder: Path) -> Cost:
    """What a command costs, with all the processes it waits for."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    began = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - began
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)}: {errors.read()[-2000:].decode()}")
    return cost_of(used, wall)


def cost_of(used: resource.struct_rusage, wall: float) -> Cost:
    return Cost(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024)


def command_of(python: Path) -> list[str]:
    return [str(python.parent / "graphprune")]


def measure(python: Path, name: str, folder: Path) -> Cost:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        return run([*command_of(python), *RUNS[name], *target(name, out)], folder)


def count(python: Path, name: str, folder: Path) -> list[Any]:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        file = Path(out) / "calls.json"
        run([str(python), __file__, "--profile", str(file), "--", *RUNS[name], *target(name, out)], folder)
        found: list[Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def target(name: str, out: str) -> tuple[str, ...]:
    return () if "--dry-run" in RUNS[name] else ("-o", f"{out}/out")


def least(costs: Sequence[Cost]) -> Cost:
    return Cost(min(c.cpu for c in costs), min(c.wall for c in costs), min(c.memory for c in costs))


def cost_table(trees: Mapping[str, Path], names: Sequence[str], times: int, folder: Path) -> list[str]:
    lines = table_head("run", [f"{what}, {tree}" for what in ("processor s", "wall s", "MiB") for tree in trees])
    for name in names:
        taken: dict[str, list[Cost]] = {tree: [] for tree in trees}
        for _ in range(times):
            for tree, python in trees.items():
                taken[tree].append(measure(python, name, folder))
                print(f"{name}, {tree}: {taken[tree][-1]}", file=sys.stderr, flush=True)
        costs = [least(taken[tree]) for tree in trees]
        cells = [
            *(f"{c.cpu:.1f}" for c in costs),
            *(f"{c.wall:.1f}" for c in costs),
            *(f"{c.memory:,.0f}" for c in costs),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def help_line(trees: Mapping[str, Path], folder: Path) -> str:
    taken: dict[str, list[float]] = {tree: [] for tree in trees}
    for _ in range(HELPS):
        for tree, python in trees.items():
            taken[tree].append(run([*command_of(python), "--help"], folder).cpu)
    found = ", ".join(f"{tree} {statistics.median(seconds):.2f} s" for tree, seconds in taken.items())
    return f"`graphprune --help`, processor seconds, median of {HELPS} in turns: {found}."


def call_tables(trees: Mapping[str, Path], names: Sequence[str], folder: Path) -> list[str]:
    """For each run a table: calls and seconds of each function in each tree."""
    lines: list[str] = []
    for name in names:
        rows = {tree: count(python, name, folder) for tree, python in trees.items()}
        lines += ["", f"## {name}", ""]
        lines += table_head("function | what happens", [f"{w}, {t}" for w in ("calls", "processor s") for t in trees])
        for sought, meaning in (*FUNCTIONS, (TORCH_EXPORT, "torch.export itself")):
            found = [find_calls(rows[tree], sought) for tree in trees]
            cells = [show(c, lambda c: f"{c.count:,}") for c in found] + [
                show(c, lambda c: f"{c.seconds:.2f}") for c in found
            ]
            lines.append(f"| `{sought.partition('(')[0]}` | {meaning} | {' | '.join(cells)} |")
    return lines


def show(calls: Calls | None, form: Callable[[Calls], str]) -> str:
    return form(calls) if calls else "-"


def table_head(first: str, cells: Sequence[str]) -> list[str]:
    line = f"| {first} | {' | '.join(cells)} |"
    return [line, "|" + "---|" * (line.count("|") - 1)]


def report(trees: Mapping[str, Path], names: Sequence[str], times: int, folder: Path) -> None:
    for model, shape in MODELS.items():
        if not (folder / model).exists() and any(model in RUNS[name] for name in names):
            run([str(next(iter(trees.values()))), __file__, "--make", str(folder / model), json.dumps(shape)], folder)
    lines = ["# What a compilation costs", "", *cost_table(trees, names, times, folder), "", help_line(trees, folder)]
    print("\n".join(lines), flush=True)
    print("\n".join(call_tables(trees, names, folder)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="the interpreter of one tree")
    parser.add_argument("--after", type=Path, help="the interpreter of another")
    parser.add_argument("--times", type=int, default=1, help="measure each run so often")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="these runs alone")
    parser.add_argument("--keep", type=Path, help="the folder for the models, which are left there")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--profile", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make_model(Path(options.make[0]), json.loads(options.make[1]))
    elif options.profile:
        profile(options.profile, options.rest)
    else:
        compare_trees(options)


def compare_trees(options: argparse.Namespace) -> None:
    named = {"before": options.before, "after": options.after}
    trees = {tree: python.absolute() for tree, python in named.items() if python} or {"here": Path(sys.executable)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        report(trees, options.only, options.times, folder)


if __name__ == "__main__":
    main()
