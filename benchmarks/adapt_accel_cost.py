"""What a prune step costs, for benchmarks/adapt_accel.py: processor seconds, and how far memory rises."""

import gc
import resource
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from adapt_accel_runs import METHODS, Cost, Subject, request
from torch import Tensor

from graphprune.analysis.analyse import analyze_axes
from graphprune.ir.graph import Graph
from graphprune.pruning.interfaces import Scene, view
from graphprune.pruning.rounds import prune
from graphprune.pruning.selection import select
from graphprune.rewriting.apply import apply
from graphprune.running.loss import next_token_loss


def measure_cost(subject: Subject, repeats: int = 3) -> tuple[Cost, ...]:
    """One forward and backward over the calibration batches, and one prune step of 2 % with the same batches."""
    graph, batches = subject.graph, subject.calibration(0).batches
    whole = graph.parameter_count()
    asked = request(whole * 98 // 100, whole * 98 // 100, METHODS["once"], 1)
    candidates = analyze_axes(graph).groups.prunable(frozenset({"mlp", "attention"}))
    scores = asked.importance.score(view(graph, candidates, batches))
    groups = analyze_axes(graph).groups
    look = Scene(graph, groups, candidates, asked.budget, batches)
    plan = select(groups, asked.allocation.keep(look, scores).counts, scores)
    parts: dict[str, Callable[[], object]] = {
        "forward and backward": lambda: forward_backward(graph, batches),
        "prune step": lambda: prune(graph, asked, batches),
        "score (taylor)": lambda: asked.importance.score(view(graph, candidates, batches)),
        "allocate (adaptive)": lambda: asked.allocation.keep(look, scores),
        "rewrite": lambda: apply(graph, plan),
    }
    return tuple(Cost(name, *watch(part, repeats)) for name, part in parts.items())


def forward_backward(graph: Graph, batches: Sequence[Tensor]) -> None:
    for ids in batches:
        parameters = list(graph.parameters().values())
        torch.autograd.grad(next_token_loss(graph, ids), parameters)


def watch(part: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Seconds of the processor (median), and the peak of resident memory above its start, in MiB."""
    peak, times = peak_memory(part), list[float]()  # the first time is not counted
    for _ in range(repeats):
        gc.collect()
        began = time.process_time()
        part()
        times.append(time.process_time() - began)
    return statistics.median(times), peak


def peak_memory(part: Callable[[], object]) -> float:
    """How far resident memory rises while it runs, looked at every 2 ms."""
    gc.collect()
    done, seen = threading.Event(), [resident()]

    def sample() -> None:
        while not done.wait(0.002):
            seen.append(resident())

    sampler = threading.Thread(target=sample)
    sampler.start()
    part()
    done.set()
    sampler.join()
    return max(seen) - seen[0]


def resident() -> float:
    """The resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20
