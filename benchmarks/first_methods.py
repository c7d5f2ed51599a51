"""The first methods compared: random, magnitude and Taylor at three sizes of three small language models, no training.

    python benchmarks/first_methods.py --data-root ../shared/data

Writes the page docs/methods/first-methods.md. Results are appended to OUT/first_methods.jsonl as they are found, and
are not computed again on a second run. Everything follows from the seeds: the same numbers come out on one machine.
"""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from graphprune.amounts import parse_target
from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Group
from graphprune.budget.budgets import Budget
from graphprune.data.calibration import Text, prepare_text
from graphprune.data.tokens import encode, load_tokenizer
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import read_recipe
from graphprune.pruning.interfaces import Importance, view
from graphprune.pruning.rounds import Request, prune
from graphprune.running.inputs import Batch
from graphprune.running.loss import Loss
from graphprune.running.perplexity import perplexity
from graphprune.spec import parse_spec

MODELS = ("stories260K-hf", "babyllama-tok105-hf", "stories3M-hf")
SHARES = ("80%", "60%", "40%")
FIRST = "60%"  # the size that the project promises to hold; iterative pruning is measured there alone
SEEDS = (0, 1, 2)
AUTO_KINDS = frozenset({"mlp", "attention", "residual"})  # all that `auto` may cut
AGGREGATES, NORMALIZATIONS = ("element", "vector"), ("none", "kind", "mean")
ALLOCATIONS = ("uniform", "global")
CALIBRATION = "corpora/tinystories/tinystories_train_head_2MiB.txt"
VALIDATION = "corpora/tinystories/tinystories_val_794K.txt"
VALIDATION_BYTES, WINDOW = 100_000, 256
PAGE = Path(__file__).parent.parent / "docs" / "methods" / "first-methods.md"


@dataclass(frozen=True)
class Run:
    """One row: what is pruned to which size, and how. `importance` and `allocation` are specs of the command line."""

    model: str
    share: str = "100%"
    importance: str = "none"
    allocation: str = "none"
    seed: int = 0
    steps: int = 1
    text: Literal["validation", "train"] = "validation"


@dataclass(frozen=True)
class Found:
    """The result of a run."""

    run: Run
    parameters: int
    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True, eq=False)
class Subject:
    """A captured model with its calibration text by seed and the validation tokens."""

    graph: Graph
    texts: dict[int, Text]
    tokens: Tensor
    text_bytes: int


@final
@dataclass(frozen=True, eq=False)
class Known(Importance):
    """Scores that were computed before: those of the whole model do not depend on the size that is asked for."""

    name: ClassVar[str] = "known"
    needs_data: ClassVar[bool] = False
    scores: dict[str, Tensor]

    def score(
        self, graph: Graph, groups: Sequence[Group], batches: Sequence[Batch] = (), loss: Loss | None = None
    ) -> dict[str, Tensor]:
        return {group.id: self.scores[group.id] for group in groups}


def plan_runs(model: str) -> Iterator[Run]:
    """The dense model, then each method at each size; a seed draws random scores, or the calibration windows."""
    yield Run(model)
    for share in SHARES:
        for allocation in ALLOCATIONS:
            yield from (Run(model, share, f"random{{seed={seed}}}", allocation, seed) for seed in SEEDS)
            yield from (Run(model, share, f"magnitude{{p={p}}}", allocation) for p in (1, 2))
            yield from (Run(model, share, "taylor", allocation, seed) for seed in SEEDS)
    yield from (Run(model, FIRST, "taylor", "global", seed, steps=5) for seed in SEEDS)


def plan_choice(model: str) -> Iterator[Run]:
    """What the defaults were chosen from, on text that was held out of the training split."""
    for normalize in NORMALIZATIONS:
        methods = (*(f"taylor{{aggregate={a}}}" for a in AGGREGATES), "magnitude{p=2}", "random{seed=0}")
        yield from (Run(model, FIRST, method, f"global{{normalize={normalize}}}", text="train") for method in methods)


def prepare(folder: Path, data: Path) -> Subject:
    graph, tokenizer = capture(folder, dtype=torch.float32), load_tokenizer(folder)
    default = read_recipe(CompileOptions.method).calibration  # as on the command line
    texts = {
        seed: prepare_text(graph, str(data / CALIBRATION), default.samples, default.length, seed) for seed in SEEDS
    }
    text = (data / VALIDATION).read_bytes()[:VALIDATION_BYTES].decode("utf-8", "ignore")
    return Subject(graph, texts, encode(tokenizer, [text]), len(text.encode()))


def measure(subject: Subject, run: Run, known: dict[tuple[str, str, int], Known]) -> Found:
    """Prune as the command line does, and predict the validation text."""
    graph = subject.graph
    if run.importance != "none":
        importance = parse_spec("importance", run.importance)
        batches = subject.texts[run.seed].batches
        if run.steps == 1:
            importance = remember(known, run, graph, importance, batches)
        budget = Budget(parse_target(run.share, graph.parameter_count()))
        request = Request(budget, importance, parse_spec("allocation", run.allocation), steps=run.steps)
        graph = prune(graph, request, batches).graph
    text = subject.texts[0]
    held = (text.held_out, text.held_out_bytes) if run.text == "train" else (subject.tokens, subject.text_bytes)
    result = perplexity(graph, held[0], WINDOW, 16, bos=text.bos, text_bytes=held[1])
    assert result.bits_per_byte is not None
    return Found(run, graph.parameter_count(), result.perplexity, result.bits_per_byte)


def remember(
    known: dict[tuple[str, str, int], Known], run: Run, graph: Graph, importance: Importance, batches: Sequence[Tensor]
) -> Known:
    key = run.model, run.importance, run.seed
    if key not in known:
        known[key] = Known(importance.score(view(graph, analyze(graph).prunable(AUTO_KINDS), batches)))
    return known[key]


def read_results(path: Path) -> dict[Run, Found]:
    """What an earlier run of this script found; a line that was cut short is computed again."""
    found: dict[Run, Found] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        run = Run(**entry.pop("run"))
        found[run] = Found(run, **entry)
    return found


def order_runs() -> list[Run]:
    """The promised size of every model comes first, what takes longest last."""
    runs = [run for model in MODELS for run in (*plan_runs(model), *plan_choice(model))]
    return sorted(runs, key=lambda run: (run.steps, run.share not in ("100%", FIRST), run.text == "train"))


def measure_all(data: Path, path: Path) -> dict[Run, Found]:
    """Every run that has not been measured yet, each written down as soon as it is known."""
    found, subjects, known = read_results(path), dict[str, Subject](), dict[tuple[str, str, int], Known]()
    for run in order_runs():
        if run in found:
            continue
        if run.model not in subjects:
            subjects[run.model] = prepare(data / "models" / run.model, data)
        found[run] = measure(subjects[run.model], run, known)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(found[run])) + "\n")
        print(f"{found[run].bits_per_byte:.3f} bits per byte: {run}", flush=True)
    return found


def method_rows(model: str, share: str, found: dict[Run, Found]) -> Iterator[tuple[str, list[Found]]]:
    """The rows of one table: a method's name, and its results over the seeds."""
    rows: dict[str, list[Found]] = {}
    for run in plan_runs(model):
        if run.share == share and run in found:
            method = run.importance.partition("{seed")[0]
            steps = f", {run.steps} steps" if run.steps > 1 else ""
            rows.setdefault(f"{method}, {run.allocation}{steps}", []).append(found[run])
    yield from rows.items()


def show(values: Sequence[float], digits: int) -> str:
    """The mean, and behind it the standard deviation over the seeds."""
    mean = f"{statistics.mean(values):,.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else mean


def show_cell(results: Sequence[Found]) -> str:
    if not results:
        return "- | -"
    return f"{show([f.bits_per_byte for f in results], 3)} | {show([f.perplexity for f in results], 1)}"


def model_tables(model: str, found: dict[Run, Found]) -> str:
    dense = found[Run(model)]
    lines = [
        f"## {model}",
        "",
        f"Dense: {dense.parameters:,} parameters, {dense.bits_per_byte:.3f} bits per byte, "
        f"perplexity {dense.perplexity:.2f} a token.",
        "",
        "| method | " + " | ".join(f"{share}: bits per byte | perplexity" for share in SHARES) + " |",
        "|---" * (1 + 2 * len(SHARES)) + "|",
    ]
    columns = [dict(method_rows(model, share, found)) for share in SHARES]
    for method in columns[SHARES.index(FIRST)]:
        cells = [show_cell(column.get(method, [])) for column in columns]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def choice_table(found: dict[Run, Found]) -> str:
    """What the defaults were chosen from: one row a method and normalization, one column a model."""
    lines = ["| importance, allocation | " + " | ".join(MODELS) + " |", "|---" * (1 + len(MODELS)) + "|"]
    for runs in zip(*(plan_choice(model) for model in MODELS), strict=True):
        bits = " | ".join(f"{found[run].bits_per_byte:.3f}" if run in found else "-" for run in runs)
        lines.append(f"| {runs[0].importance}, {runs[0].allocation} | {bits} |")
    return "\n".join(lines)


def versions() -> str:
    from importlib.metadata import version

    names = ("graphprune", "torch", "transformers")
    return ", ".join(f"{name} {version(name)}" for name in names) + f", Python {platform.python_version()}"


def verdict(found: dict[Run, Found]) -> str:
    """Whether Taylor, as the command line uses it, beats the rest at 60 %, seed by seed."""
    lines = ["| model | taylor, worst seed | random, best seed | magnitude, best |", "|---|---|---|---|"]
    for model in MODELS:

        def bits(name: str, model: str = model) -> list[float]:
            return [
                f.bits_per_byte
                for r, f in found.items()
                if r.model == model
                and r.text == "validation"
                and r.share == FIRST
                and r.allocation == "global"
                and r.steps == 1
                and r.importance.startswith(name)
            ]

        worst, others = max(bits("taylor")), (min(bits("random")), min(bits("magnitude")))
        mark = "" if worst < min(others) else " (not better)"
        lines.append(f"| {model} | {worst:.3f}{mark} | {others[0]:.3f} | {others[1]:.3f} |")
    return "\n".join(lines)


def page(found: dict[Run, Found]) -> str:
    tables = "\n\n".join(model_tables(model, found) for model in MODELS)
    default, others = read_recipe(CompileOptions.method).calibration, f"{WINDOW - 1} more"
    return f"""# The first methods, measured

Random, magnitude and first-order Taylor importance at three sizes of three small language models, without any training
after the cut. Made on {date.today()} with {versions()} by

    python benchmarks/first_methods.py

**Protocol.** Sizes are shares of all parameters. Kinds and floors are those of `--prune auto`, and everything not named
is the default of `graphprune compile`. Taylor sees {default.samples} windows of {default.length} tokens from the first
part of TinyStories' train split; its seeds draw other windows, those of random other scores; magnitude has none.
Measured on the first {VALIDATION_BYTES:,} bytes of the validation split, in windows of the first token (BOS) and
{others}, each token predicted once, in float32. Bits per byte compare between models, perplexities only within one.
A cell is the mean over the seeds ± their standard deviation, a dash is not measured yet. The row of 5 steps scores the
smaller model anew before each of five cuts. A cut this deep without training leaves little of models this small: the
numbers order the methods, and are no promise of a usable model.

The characters of babyllama-tok105 have no newline: its tokenizer turns each run of them into one unknown token, which
is predicted like any other, while all bytes count.

## At {FIRST}, as the command line prunes

Global allocation in one step, bits per byte.

{verdict(found)}

{tables}

## How the defaults were chosen

On the last tenth of the calibration text, which no method sees, at {FIRST} with global allocation; one seed. The text
has the ends of stories in it, so its loss is higher than that of the tables above.

{choice_table(found)}

Taylor by element and without normalization is no better than magnitude on the smallest model, and worse than random on
babyllama-tok105. Two things go wrong. Single entries |w g| of one sample are mostly noise, which a sum of magnitudes
adds up, so that a unit with many entries looks important; a sum over a row first lets it cancel. And first-order scores
are right for small steps only: after a large cut what is left of a layer matters far more than its score said, and so
the layers with the lowest scores fall to their floors, down to one head and a fifth of the channels. Scores relative to
the group's mean still say which units of a group go first, and which groups have many units that matter little.
A floor of half the heads in attention changed less than 0.05 with sums over rows, so the floors stayed as they are. The
defaults are therefore `taylor{{aggregate=vector}}` and `global{{normalize=mean}}`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("GRAPHPRUNE_DATA", "../shared/data")
    parser.add_argument("--data-root", type=Path, default=Path(data), help="folder with models/ and corpora/")
    parser.add_argument("--out", type=Path, default=Path("/tmp/graphprune-benchmarks"), help="folder for results")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is written")
    parser.add_argument("--fresh", action="store_true", help="forget the results of earlier runs")
    options = parser.parse_args()
    if not (options.data_root / CALIBRATION).is_file():
        parser.error(f"no {CALIBRATION} under {options.data_root}; pass --data-root or set GRAPHPRUNE_DATA")
    path = options.out / "first_methods.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        path.unlink(missing_ok=True)
    torch.set_num_threads(1)
    found = measure_all(options.data_root, path)
    options.page.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
