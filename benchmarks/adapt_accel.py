"""Training after and between cuts, at equal tokens: prune once, Adapt-Accel, distillation, and training from scratch.

    python benchmarks/adapt_accel.py --data-root ../shared/data

Writes the page docs/methods/adapt-accel.md. Results are appended to OUT/adapt_accel.jsonl as they are found, and are
not computed again on a second run; those of the committed page are in benchmarks/results. --minutes ends a run early,
--page-only only writes the page anew. Everything but times follows from the seeds.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from adapt_accel_cost import measure_cost
from adapt_accel_page import page
from adapt_accel_runs import (
    CHOICE,
    CHOSEN,
    CHOSEN_SCRATCH,
    CORE,
    FIRST,
    LONG,
    METHODS,
    MODELS,
    MORE,
    RATES,
    SEEDS,
    SHARES,
    TRAINING,
    Cost,
    Found,
    Run,
    Subject,
    measure,
    prepare,
    read_lines,
    write_line,
)

PAGE = Path(__file__).parent.parent / "docs" / "methods" / "adapt-accel.md"


def rows_of(model: str, share: str, seed: int) -> Iterator[Run]:
    """All rows of one size of one model. What takes longest, and what the goals are not about, has one seed."""
    once_only = seed == SEEDS[0]
    for method in (*CORE, *(MORE if once_only and share == FIRST else ()), "scratch"):
        rate = CHOSEN_SCRATCH if METHODS[method].scratch else CHOSEN[model]
        yield Run(model, share, method, seed, rate)
    if once_only and (share == FIRST or model != MODELS[0]):
        yield Run(model, share, "scratch", seed, CHOSEN_SCRATCH, LONG)


def choice_runs() -> Iterator[Run]:
    """What the learning rates were chosen from."""
    for rate in RATES:
        yield from (Run(MODELS[0], FIRST, method, 0, rate, text="train") for method in CHOICE[:2])
    yield from (Run(MODELS[0], FIRST, "scratch", 0, rate, text="train") for rate in RATES[2:])
    yield from (Run(MODELS[1], FIRST, "once", 0, rate, text="train") for rate in RATES[:3])
    yield from (Run(MODELS[2], FIRST, "once", 0, rate, text="train") for rate in RATES[1:])


def order_runs() -> list[Run]:
    """Seed by seed, the size in the middle first, what takes longest last."""
    every = [Run(model) for model in MODELS]
    every += [run for seed in SEEDS for model in MODELS for share in SHARES for run in rows_of(model, share, seed)]

    def place(run: Run) -> tuple[object, ...]:
        return run.seed, run.times > 1, run.share not in (FIRST, "100%"), run.method not in (*CORE, "none")

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


def gpu_section(page: Path) -> str:
    """What benchmarks/gpu/run has written at the end of the page; it is not measured here, and stays."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    _, found, rest = text.partition("\n## On a GPU\n")
    return found + rest


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
    kept = gpu_section(options.page)
    options.page.write_text(page(*read_found(path)) + kept, encoding="utf-8")


if __name__ == "__main__":
    main()
