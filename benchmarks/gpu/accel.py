"""Part `accel`: stories3M cut to 60 and 40 %, trained by several methods with ever more tokens, several at a time.

A model of 3M parameters is bound by the launches of its kernels, so several processes share the card. Cells whose rows
are there already are not measured again.
"""

import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from accel_cells import CHOSEN_AT, RATES, Cell, all_cells, choice_cells, measure_cell, measure_dense, pending
from accel_subject import MODEL, STORIES, Subject, prepare
from part import Part, read_rows, release, require_files, run_part

WORKERS = 5
SHARES = ("60%", "40%")
AMOUNTS = (2_000_000, 8_000_000, 32_000_000)
TINY_AMOUNTS = (128,)

_subject: list[Subject] = []  # of a worker, which keeps it


def start(data: Path | None, work: Path, device: str) -> None:
    """What a worker does first. Products in TF32: at this size casts to bf16 cost as many launches as they save."""
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(1 if data is None else 2)
    _subject.append(prepare(data, work, torch.device(device)))


def work_on(cell: Cell | None) -> dict[str, Any]:
    """Measure a cell; None is the dense model."""
    try:
        return measure_dense(_subject[0]) if cell is None else measure_cell(_subject[0], cell)
    finally:
        release()


def run_cells(part: Part, pool: ProcessPoolExecutor, cells: Iterable[Cell]) -> None:
    """Write each row as its cell ends; one that fails is a row with its error."""
    futures = {pool.submit(work_on, cell): cell for cell in cells}
    for future in as_completed(futures):
        cell = futures[future]
        part.attempt(future.result, **cell.key)


def rows_of(part: Part) -> Iterator[dict[str, Any]]:
    return (row for row in read_rows(part.out) if bool(row.get("tiny")) == part.tiny)


def best_rates(part: Part) -> dict[str, float]:
    """The rate of each kind with the fewest bits on the text for choosing; the middle one where none was measured."""
    rates = {method: values[len(values) // 2] for method, values in RATES.items()}
    for method in rates:
        rows = [row for row in rows_of(part) if row.get("method") == method and row.get("text") == "train"]
        rows = [row for row in rows if "bits_per_byte" in row]
        if rows:
            rates[method] = min(rows, key=lambda row: float(row["bits_per_byte"]))["lr"]
    return rates


def measure(part: Part) -> None:
    data = None if part.tiny else part.data
    require_files(data, MODEL, STORIES)
    initial = (data, part.work / "accel", str(part.device))
    shares, amounts = (SHARES[:1], TINY_AMOUNTS) if part.tiny else (SHARES, AMOUNTS)
    workers = 1 if part.tiny else WORKERS
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=start, initargs=initial) as pool:
        known = any(row.get("method") == "dense" and "error" not in row for row in rows_of(part))
        dense = None if known else pool.submit(work_on, None)
        choice = [] if part.tiny else choice_cells(shares[0], CHOSEN_AT)
        run_cells(part, pool, pending(choice, rows_of(part), part.tiny))
        if dense is not None:
            part.attempt(dense.result, share="100%", method="dense", tokens=0, text="validation")
        rates = best_rates(part)
        print(f"rates: {rates}", flush=True)
        cells = all_cells(shares, amounts, rates)
        run_cells(part, pool, pending(cells[-4::3] if part.tiny else cells, rows_of(part), part.tiny))


if __name__ == "__main__":
    run_part("accel", measure)
