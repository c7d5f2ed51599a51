"""Training after and between cuts, at equal tokens: prune once, Adapt-Accel, distillation, and training from scratch.

    python benchmarks/adapt_accel.py --data-root ../shared/data

Writes the page docs/methods/adapt-accel.md. Results are appended to OUT/adapt_accel.jsonl as they are found, and are
not computed again on a second run; --minutes ends a run early, --page-only only writes the page anew. Everything but
times follows from the seeds.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from adapt_accel_runs import (
    COURSE_BYTES,
    CUTS,
    LATE,
    LENGTH,
    METHODS,
    PAIRS_A_SET,
    ROWS,
    SAMPLES,
    STEPS,
    TOKENS,
    TRAINING,
    VALIDATION_BYTES,
    WINDOW,
    Cost,
    Found,
    Run,
    Subject,
    measure,
    measure_cost,
    prepare,
    read_lines,
    write_line,
)

MODELS = ("stories3M-hf", "babyllama-tok105-hf", "stories260K-hf")
SHARES = ("80%", "60%", "40%")
FIRST = "60%"
SETS = 12  # of BLiMP
SEEDS = (0, 1, 2)
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
CHOSEN = {"stories3M-hf": 3e-4, "babyllama-tok105-hf": 1e-3, "stories260K-hf": 1e-3}  # for what is pruned
CHOSEN_SCRATCH = 1e-3
LONG = 10  # from scratch, also on so many times the tokens
LATER, SQUARES = "interleaved, carried, late tokens", "interleaved, carried, least squares"
CORE = ("once", "interleaved, carried", LATER, "interleaved, reset", "once, least squares", SQUARES)
MORE = tuple(name for name in METHODS if name not in (*CORE, "scratch"))
CHOICE = ("once", "interleaved, carried", "scratch")
PAGE = Path(__file__).parent.parent / "docs" / "methods" / "adapt-accel.md"


def rows_of(model: str, share: str, seed: int) -> Iterator[Run]:
    """All rows of one size of one model, those that the goals are about first."""
    for method in (*CORE, *MORE, "scratch"):
        rate = CHOSEN_SCRATCH if METHODS[method].scratch else CHOSEN[model]
        yield Run(model, share, method, seed, rate)
    yield Run(model, share, "scratch", seed, CHOSEN_SCRATCH, LONG)


def choice_runs() -> Iterator[Run]:
    """What the learning rates were chosen from."""
    for rate in RATES:
        yield from (Run(MODELS[0], FIRST, method, 0, rate, text="train") for method in CHOICE[:2])
    yield from (Run(MODELS[0], FIRST, "scratch", 0, rate, text="train") for rate in RATES[2:])
    yield from (Run(MODELS[2], FIRST, "once", 0, rate, text="train") for rate in RATES[1:])


def order_runs() -> list[Run]:
    """The largest model at the size in the middle comes first, then what the goals are about; more seeds last."""
    every = [Run(model) for model in MODELS]
    every += [run for seed in SEEDS for model in MODELS for share in SHARES for run in rows_of(model, share, seed)]

    def place(run: Run) -> tuple[object, ...]:
        large, first = run.model == MODELS[0], run.share in (FIRST, "100%")
        core, long = run.method in (*CORE, "none"), run.times > 1
        if large:
            phase = (0 if core else 2 if long else 1) if first else (3 if core else 6)
        else:
            phase = (3 if core or long else 5) if first else (4 if core else 6)
        return run.seed, phase

    return [*sorted(every, key=place), *choice_runs()]


def read_found(path: Path) -> tuple[dict[Run, Found], list[Cost]]:
    """What an earlier run of this script found."""
    found, costs = dict[Run, Found](), list[Cost]()
    for entry in read_lines(path):
        values: dict[str, Any] = dict(entry)
        if "what" in values:
            costs.append(Cost(**values))
            continue
        run = Run(**values.pop("run"))
        course = tuple((int(tokens), float(bits)) for tokens, bits in values.pop("course"))
        found[run] = Found(run, course=course, **values)
    return found, costs


def measure_all(data: Path, path: Path, minutes: float, models: Sequence[str]) -> None:
    """Every run that has not been measured yet, each written down as soon as it is known."""
    found, costs = read_found(path)
    subjects, end = dict[str, Subject](), time.monotonic() + 60 * minutes
    for number, run in enumerate(run for run in order_runs() if run.model in models):
        if time.monotonic() > end:
            return
        if run in found:
            continue
        if run.model not in subjects:
            subjects[run.model] = prepare(run.model, data)
        if not costs and run.model == MODELS[0] and number > len(METHODS):
            costs = list(measure_cost(subjects[run.model]))
            for cost in costs:
                write_line(path, cost)
        result = measure(subjects[run.model], run)
        write_line(path, result)
        print(f"{result.bits_per_byte:.3f} bits per byte in {result.seconds:.0f} s: {run}", flush=True)


Results = Mapping[Run, Found]


def select_runs(found: Results, **wanted: object) -> list[Found]:
    """The results whose runs have these fields, in the order of the seeds."""
    fields: dict[str, object] = {"text": "validation", "times": 1, **wanted}
    chosen = [f for run, f in found.items() if all(getattr(run, name) == value for name, value in fields.items())]
    return sorted(chosen, key=lambda f: f.run.seed)


def show(values: Sequence[float], digits: int = 3) -> str:
    """The mean, behind it the standard deviation over the seeds; a dash for none."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):,.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else mean


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def method_table(model: str, found: Results) -> str:
    """Bits per byte and BLiMP of every method at every size."""
    rows = []
    for method in METHODS:
        for times in (1, LONG) if METHODS[method].scratch else (1,):
            cells = []
            for share in SHARES:
                of = select_runs(found, model=model, share=share, method=method, times=times)
                accuracies = [100 * f.accuracy for f in of if f.accuracy is not None]
                cells += [show([f.bits_per_byte for f in of]), show(accuracies, 1), str(len(of))]
            rows.append([f"{method}, {times} T" if METHODS[method].scratch else method, *cells])
    head = ["method", *(part for share in SHARES for part in (f"{share}: bits per byte", "BLiMP %", "seeds"))]
    return table(head, rows)


def untrained_line(model: str, found: Results) -> str:
    parts = []
    for method in ("once", "once, least squares"):
        cells = []
        for share in SHARES:
            of = select_runs(found, model=model, share=share, method=method)
            cells.append(f"{share} {show([f.untrained for f in of if f.untrained is not None])}")
        parts.append(f"{method}: {', '.join(cells)}")
    return f"Cut and not trained, bits per byte: {'; '.join(parts)}."


def model_section(model: str, found: Results) -> str:
    dense = select_runs(found, model=model, method="none")
    lines = [f"## {model}", ""]
    if dense:
        one = dense[0]
        accuracy = f"BLiMP {100 * (one.accuracy or 0):.1f} % (standard error {100 * (one.accuracy_error or 0):.1f})"
        lines += [f"Dense: {one.parameters:,} parameters, {one.bits_per_byte:.3f} bits per byte, {accuracy}.", ""]
    return "\n".join([*lines, untrained_line(model, found), "", method_table(model, found)])


def tokens_to_reach(result: Found, goal: float) -> int | None:
    """The first tokens on the course at which the loss is at or below the goal; None where it never is."""
    return next((tokens for tokens, bits in result.course if bits <= goal), None)


def ratio_cell(result: Found, goal: Found) -> str:
    """How many times fewer tokens it took to the loss that training from scratch ended at."""
    spent, whole = tokens_to_reach(result, goal.course[-1][1]), goal.course[-1][0]
    if spent is None:
        return f"not reached ({result.course[-1][1]:.3f})"
    return "no training needed" if spent == 0 else f"{whole / spent:.1f} ({spent:,})"


def ratio_table(found: Results) -> str:
    rows = []
    for model in MODELS:
        for share in SHARES:
            for goal in select_runs(found, model=model, share=share, method="scratch", times=LONG)[:1]:
                cells = []
                for method in METHODS:
                    if method != "scratch":
                        of = select_runs(found, model=model, share=share, method=method, seed=goal.run.seed)
                        cells.append(ratio_cell(of[0], goal) if of else "-")
                rows.append([f"{model}, {share}", f"{goal.course[-1][1]:.3f}", *cells])
    return table(["model, size", "from scratch", *(method for method in METHODS if method != "scratch")], rows)


def comparison(found: Results, left: str, right: str) -> str:
    """How often the left method is at or below the right one, cell by cell over the seeds that both have."""
    wins, lines = 0, []
    for model in MODELS:
        for share in SHARES:
            a = {f.run.seed: f.bits_per_byte for f in select_runs(found, model=model, share=share, method=left)}
            b = {f.run.seed: f.bits_per_byte for f in select_runs(found, model=model, share=share, method=right)}
            both = sorted(a.keys() & b.keys())
            if both:
                gap = statistics.mean(a[seed] - b[seed] for seed in both)
                wins += gap <= 0
                lines.append(f"{model} {share} {gap:+.3f}")
    if not lines:
        return f"- **{left}** against **{right}**: not measured yet."
    return f"- **{left}** at or below **{right}** in {wins} of {len(lines)} cells: {'; '.join(lines)}."


def choice_table(found: Results) -> str:
    rows = []
    for model, method in (*((MODELS[0], method) for method in CHOICE), (MODELS[2], "once")):
        cells = [select_runs(found, model=model, method=method, lr=rate, text="train") for rate in RATES]
        rows.append([f"{model}, {method}", *(show([f.bits_per_byte for f in cell]) for cell in cells)])
    return table(["model, method", *(f"{rate:g}" for rate in RATES)], rows)


def cost_table(costs: Sequence[Cost]) -> str:
    if not costs:
        return "Not measured yet."
    one = costs[0]
    rows = []
    for cost in costs:
        times = f"{cost.seconds / one.seconds:.2f}"
        rows.append([cost.what, f"{cost.seconds:.2f}", times, f"{cost.peak:.0f}", f"{cost.peak / one.peak:.2f}"])
    return table(["what", "seconds", "times", "peak MiB", "times"], rows)


def error_line(found: Results) -> str:
    errors = [100 * f.accuracy_error for f in found.values() if f.accuracy_error is not None]
    return f"its standard error is {min(errors):.1f} to {max(errors):.1f} points" if errors else "not measured yet"


def versions() -> str:
    from importlib.metadata import version

    names = ("graphprune", "torch", "transformers", "accelerate")
    return ", ".join(f"{name} {version(name)}" for name in names) + f", Python {platform.python_version()}"


GOALS = (
    ("interleaved, carried", "once"),
    ("interleaved, reset", "once"),
    (LATER, "once"),
    (LATER, "interleaved, carried"),
    ("interleaved, carried", "interleaved, reset"),
    ("interleaved, carried, least squares", "once, least squares"),
    ("once, least squares", "once"),
    ("interleaved, carried, distilled", "interleaved, carried"),
    ("interleaved, carried, distilled", "once, distilled"),
    ("once, distilled", "once"),
    ("once", "scratch"),
)


def page(found: Results, costs: Sequence[Cost], findings: str) -> str:
    goals = "\n".join(comparison(found, *pair) for pair in GOALS)
    error = error_line(found)
    sections = "\n\n".join(model_section(model, found) for model in MODELS)
    return f"""# Adapt-Accel, measured

What training after the cut, and between cuts, is worth at equal tokens, and against training the small shape from
scratch. Made on {date.today()} with {versions()} by

    python benchmarks/adapt_accel.py

{findings}

## Protocol

Every row is trained on the same T = {TOKENS:,} tokens: {STEPS} steps of {ROWS} rows of BOS and {WINDOW - 1} tokens
of the first part of TinyStories' train split (`{Path(TRAINING).name}`, its last 200,000
bytes left out), AdamW, warm-up over 5 % and decay over the last 10 % of all steps, in float32; the last weights are
reported. From scratch on {LONG} T the text is gone through more than once where it is shorter than that. Sizes are
shares of all parameters. Taylor importance and adaptive allocation in {CUTS} rounds, with {SAMPLES} windows of {LENGTH}
tokens. *Once* cuts in all rounds and then trains, *interleaved* trains after each round ({CUTS} stages, token shares
linear, one learning-rate schedule over all). *Reset* starts AdamW anew after each cut, as the paper does, *carried*
slices its moments with the weights. *Late tokens* leaves {LATE:.0%} of the tokens for the time after the last cut, in
place of a third. *Distilled* learns from the logits of the unpruned model alone, at temperature 2. *Least squares* is
`least-squares{{consumers=all}}` after each cut. *Scratch* is the shape of *once* with weights drawn anew.

Reported on the first {VALIDATION_BYTES:,} bytes of the validation split, in windows of BOS and {WINDOW - 1} tokens,
each token predicted once. BLiMP is the mean over {SETS} sets of {PAIRS_A_SET} minimal pairs each; {error}.
A seed draws the calibration windows, the order of the rows, and the weights of *scratch*. A cell is the mean over the
seeds that were measured ± their standard deviation, a dash is not measured.

{sections}

## Method against method

Differences in bits per byte, mean over the seeds that both have; below 0 the first is better.

{goals}

## Tokens to the loss of training from scratch

The loss that training the same shape from scratch ends at after {LONG} T = {LONG * TOKENS:,} tokens, how many times
fewer tokens a row took to reach it, and in brackets the tokens it took, those of all stages included. Only the model in
its final size counts: an interleaved row is looked at from its last cut on. On the first {COURSE_BYTES:,} bytes of the
validation split, one seed; looked at after 0, 2, 4, 8, ... 64 steps of {ROWS * WINDOW:,} tokens from the last cut
on, with no decay of the learning rate before, and at the end.

{ratio_table(found)}

## The cost of a prune step

{MODELS[0]}, {SAMPLES} windows of {LENGTH} tokens, one thread: a cut of 2 % (score, allocate, rewrite, with the analysis
between) beside one forward and backward of the same batches. Seconds of the processor, median of three; memory is
resident memory above what was there before. The goal is at most 2 times.

{cost_table(costs)}

## How the learning rates were chosen

At {FIRST}, T tokens, seed 0, on 100,000 bytes held out of the train split; bits per byte. All rows of a model have one
rate, the best for *once*; from scratch has its own.

{choice_table(found)}

{"; ".join(f"{model} {rate:g}" for model, rate in CHOSEN.items())}; from scratch {CHOSEN_SCRATCH:g}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("GRAPHPRUNE_DATA", "../shared/data")
    parser.add_argument("--data-root", type=Path, default=Path(data), help="folder with models/, corpora/ and eval/")
    parser.add_argument("--out", type=Path, default=Path("/tmp/graphprune-benchmarks"), help="folder for results")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is written")
    parser.add_argument("--minutes", type=float, default=600.0, help="start no further run after so many minutes")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="measure no others")
    parser.add_argument("--page-only", action="store_true", help="write the page from what is there")
    parser.add_argument("--fresh", action="store_true", help="forget the results of earlier runs")
    options = parser.parse_args()
    if not (options.data_root / TRAINING).is_file():
        parser.error(f"no {TRAINING} under {options.data_root}; pass --data-root or set GRAPHPRUNE_DATA")
    path = options.out / "adapt_accel.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        path.unlink(missing_ok=True)
    torch.set_num_threads(1)
    if not options.page_only:
        measure_all(options.data_root, path, options.minutes, options.models)
    options.page.write_text(page(*read_found(path), findings=""), encoding="utf-8")


if __name__ == "__main__":
    main()
