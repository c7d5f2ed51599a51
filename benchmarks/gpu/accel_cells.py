"""The cells of `accel`: a model of some size, made by some method with so many tokens, and how it is measured."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accel_subject import Subject
from part import now
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent.parent))
from adapt_accel_runs import METHODS, Method, request

from graphprune.amounts import parse_target
from graphprune.ir.graph import Graph
from graphprune.ir.placement import device_of
from graphprune.pipeline.token_shares import split_whole, stage_shares
from graphprune.pruning.rounds import Surroundings, prune
from graphprune.training.options import TrainOptions
from graphprune.training.train import train

CUTS = 5  # rounds of scoring, one a stage where training is interleaved: as in benchmarks/adapt_accel.py
CHOSEN_AT = 2_000_000


@dataclass(frozen=True)
class Cell:
    """One model; `text` is what it is reported on: rates are chosen on text that is held out of the train split."""

    share: str
    method: str
    tokens: int
    lr: float
    text: Literal["validation", "train"] = "validation"

    @property
    def key(self) -> dict[str, Any]:
        return {"share": self.share, "method": self.method, "tokens": self.tokens, "text": self.text}


LATER = "interleaved, carried, late tokens"
CELLS = ("once", "scratch", "once, distilled", LATER, f"{LATER}, distilled")
RATES = {"once": (3e-4, 1e-3, 3e-3), "scratch": (1e-3, 3e-3, 1e-2)}


def choice_cells(share: str, tokens: int) -> list[Cell]:
    """What the rates are chosen from: one for all that is cut, one for all from scratch."""
    return [Cell(share, method, tokens, rate, "train") for method, rates in RATES.items() for rate in rates]


def all_cells(shares: tuple[str, ...], amounts: tuple[int, ...], rates: dict[str, float]) -> list[Cell]:
    """Every cell, what says most first: the middle amount of both sizes, then the least, then the most."""
    order = (*amounts[1:2], *amounts[:1], *amounts[2:])
    rate = {method: rates["scratch" if METHODS[method].scratch else "once"] for method in CELLS}
    return [Cell(share, method, tokens, rate[method]) for tokens in order for share in shares for method in CELLS]


def measure_dense(subject: Subject) -> dict[str, Any]:
    bits = subject.reported.bits(subject.graph, subject.size.length)
    return {"bits_per_byte": round(bits, 4), "parameters": subject.graph.parameter_count()}


def measure_cell(subject: Subject, cell: Cell) -> dict[str, Any]:
    """Make the model of a cell and measure it."""
    began, method = now(), METHODS[cell.method]
    held = subject.chosen_on if cell.text == "train" else subject.reported
    untrained = None
    if method.stages == 1 and not method.scratch:
        untrained = round(held.bits(cut_whole(subject, cell, method), subject.size.length), 4)
    graph = make(subject, cell, method)
    steps = math.ceil(cell.tokens / subject.size.step)
    return {
        "lr": cell.lr,
        "steps": steps,
        "epochs": round(steps * subject.size.step / subject.stream.tokens_per_epoch, 2),
        "bits_per_byte": round(held.bits(graph, subject.size.length), 4),
        "untrained": untrained,
        "parameters": graph.parameter_count(),
        "seconds": round(now() - began, 1),
    }


def make(subject: Subject, cell: Cell, method: Method) -> Graph:
    """Cut and train in turns, with one learning-rate schedule and one pass through the rows over all stages."""
    size, first, graph = subject.size, 0, subject.graph
    total = math.ceil(cell.tokens / size.step)
    for stage, steps in enumerate(split_whole(total, stage_shares(method.stages, method.shares)), 1):
        graph = cut(subject, cell, method, graph, stage)
        options = TrainOptions(
            steps=steps,
            rows=size.rows,
            lr=cell.lr,
            schedule=method.schedule,
            first_step=first,
            total_steps=total,
            first_row=first * size.rows,
            moments=method.moments,
            distill=method.distill,
            keep="last",
            device=str(device_of(subject.graph)),
            divergence=100.0,  # a rate that is too high is a finding
        )
        teacher = subject.graph if method.distill else None
        graph = train(graph, options, subject.stream, teacher).graph if steps else graph
        first += steps
    return graph


def cut(subject: Subject, cell: Cell, method: Method, graph: Graph, stage: int) -> Graph:
    """What a stage starts from: all of the cut, its part of it, or the whole cut's shape with new weights."""
    if method.scratch:
        return fresh(cut_whole(subject, cell, method))
    if method.stages == 1:
        return cut_whole(subject, cell, method)
    whole = subject.graph.parameter_count()
    final = parse_target(cell.share, whole)
    target = whole - (whole - final) * stage // method.stages
    asked = request(target, final, method, CUTS // method.stages or 1)
    return prune(graph, asked, subject.text.batches, Surroundings(source=subject.graph)).graph


def cut_whole(subject: Subject, cell: Cell, method: Method) -> Graph:
    """All of the cut in as many rounds as the interleaved methods have in all; made once a size."""
    if cell.share not in subject.cuts:
        final = parse_target(cell.share, subject.graph.parameter_count())
        asked = request(final, final, method, CUTS)
        subject.cuts[cell.share] = prune(subject.graph, asked, subject.text.batches).graph
    return subject.cuts[cell.share]


def fresh(graph: Graph) -> Graph:
    """The same shape with weights as a new Llama has them, drawn on the processor so that every card draws the same."""
    generator = torch.Generator().manual_seed(0)
    deviation = float(getattr(graph.source.config, "initializer_range", 0.02))

    def start(tensor: Tensor) -> torch.nn.Parameter:
        new = torch.ones(tensor.shape)
        new = new.normal_(0.0, deviation, generator=generator) if tensor.dim() > 1 else new
        return torch.nn.Parameter(new.to(tensor.device))

    tensors = {name: start(tensor) for name, tensor in graph.parameters().items()}
    return replace(graph.with_tensors(tensors), companions={}, memo={})


def pending(cells: list[Cell], rows: Iterator[dict[str, Any]], tiny: bool) -> list[Cell]:
    """The cells that no row without an error has."""
    names = Cell("", "", 0, 0.0).key.keys()
    known = [{**{n: row.get(n) for n in names}, "lr": row.get("lr")} for row in rows if not_error(row, tiny)]
    return [cell for cell in cells if {**cell.key, "lr": cell.lr} not in known]


def not_error(row: dict[str, Any], tiny: bool) -> bool:
    return "error" not in row and "bits_per_byte" in row and bool(row.get("tiny")) == tiny
