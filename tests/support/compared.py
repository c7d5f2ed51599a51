"""A comparison made up from plain numbers, as compare.json has one: no model is read for it."""

import itertools
from typing import Any

from graphprune.comparison.schema import Cell, Comparison, Cost, Measured, MethodPart, TaskResult, Text
from graphprune.comparison.summary import make_rows

WHOLE = 1_000_000
TASKS = {
    "arc_easy_local": 0.25,
    "piqa_local": 0.5,
    "hellaswag_local": 0.25,
    "winogrande_local": 0.5,
    "blimp_local": 0.5,
}


def measured(parameters: int, bits: float, wanted: int = 0, **changes: Any) -> Measured:
    """What a cell came to, with `changes`."""
    scores = [(name, 0.3 + guess - bits / 20, guess) for name, guess in TASKS.items()]
    tasks = [
        TaskResult(task=name, metric="acc", value=value, standard_error=0.03, examples=200, guess=guess, group=False)
        for name, value, guess in scores
    ]
    plain = Measured(
        parameters=parameters,
        wanted=wanted or parameters,
        nats_per_token=2.0 * bits,
        perplexity=7.0,
        bits_per_byte=bits,
        guess_bits=3.09,
        guess_nats=6.238,
        predicted=1000,
        text_bytes=3000,
        window=256,
        tasks=tasks,
        cut=Cost(wall=12.0 * bits**3, processor=20.0),
        training=Cost(wall=0.0, processor=0.0),
        seconds=30.0,
        peak_made=500 << 20,
        peak=600 << 20,
        threads=1,
        device="cpu",
        notes=[],
    )
    return plain.model_copy(update=changes)


def cell(method: str, target: str, seed: int, tokens: int = 0, **changes: Any) -> Cell:
    """A cell of a method, which failed where `error` is among the changes."""
    plain = Cell(
        schema_version=1,
        key=f"{method}{target}{seed}{tokens}",
        method=method,
        target=target,
        seed=seed,
        tokens=tokens,
        recipe={"name": method},
        code="0",
        version="0.1.0",
        measured=None,
        error=None,
    )
    return plain.model_copy(update=changes)


def made_up(
    methods: tuple[str, ...] = ("magnitude", "taylor", "adapt-pruner"),
    targets: tuple[str, ...] = ("80%", "60%", "40%"),
    tokens: tuple[int, ...] = (0, 131_072),
    seeds: int = 3,
    tasks: tuple[str, ...] = ("arc_easy_local", "piqa_local"),
) -> Comparison:
    """A comparison in which later methods are better; the first is above its target at the last one."""
    cells = []
    for count, target, method, seed in itertools.product(tokens, targets, methods, range(seeds)):
        share = float(target.rstrip("%")) / 100
        wanted = int(WHOLE * share)
        bits = (
            0.7
            + (1.0 - share) * (3.2 - 2.4 * methods.index(method) / len(methods)) * (0.6 if count else 1.0)
            + seed / 90
        )
        above = 9_000 if method == methods[0] and target == targets[-1] else -40
        below = 15_000 if method == methods[-1] and target == targets[-1] else 0
        found = measured(wanted + above - below, bits, wanted, training=Cost(wall=40.0 * (count > 0), processor=40.0))
        cells.append(cell(method, target, seed, count, measured=found))
    text = Text(
        data="train.txt#train",
        search="train.txt#held-out",
        held_out="val.txt",
        samples=512,
        length=64,
        window=256,
        stride=255,
        bos=True,
        text_bytes=100_000,
        text_tokens=None,
        tasks=list(tasks),
        task_limit=200,
    )
    return Comparison(
        schema_version=1,
        command=f"graphprune compare tiny --methods {','.join(methods)}",
        model="tiny",
        parameters=WHOLE,
        date="2026-11-28",
        versions={"graphprune": "0.1.0"},
        machine="x86_64, 2 processors",
        methods=[MethodPart(name=name, recipes=[{"name": name}]) for name in methods],
        targets=list(targets),
        train_tokens=list(tokens),
        seeds=seeds,
        text=text,
        dense=measured(WHOLE, 0.634),
        cells=cells,
        rows=make_rows(cells, methods, targets, tokens, tasks),
        notes=[],
    )
