"""The page docs/architectures.md from what conformance.py found."""

import os
import platform
import statistics
from collections import Counter
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from typing import Any

STAGES = ("model", "capture", "groups", "oracle", "rewrite", "reference", "checkpoint", "onnx")
KINDS = ("mlp", "attention", "query", "head_dim", "residual", "experts", "vocabulary", "other")


def page(found: Sequence[dict[str, Any]], whole: int) -> str:
    passed = [entry for entry in found if not entry["failed"]]
    versions = ", ".join(f"{name} {version(name)}" for name in ("graphprune", "torch", "transformers", "onnxruntime"))
    return f"""# Architectures

Every class of transformers' causal-LM mapping, made small and random, through the whole compiler: captured, grouped,
half of the units of every kind cut and compared with the masked model in float64 at 1e-9, the checkpoint reloaded and
the ONNX model with its cache run, both compared with the graph. No architecture has code of its own. Made on
{date.today()} with {versions}, Python {platform.python_version()}, {os.cpu_count()} cores, by

    python benchmarks/conformance.py

## How far they come

{len(found)} of {whole} classes were run.

| stage | passed | of |
|---|---|---|
{stage_rows(found)}

{len(passed)} pass everything, {share(len(passed), len(found))}. {medians(passed)}

## Why the others stop

{reasons(found)}

## All

Shares are of the parameters that hold units of a kind, which overlap. Seconds are those of capture, oracle, checkpoint
and ONNX with one thread, {os.cpu_count()} at once.

| model type | stops at | parameters | nodes | prunable | {" | ".join(KINDS)} | locked, most often | seconds |
|---|---|---|---|---|{"---|" * len(KINDS)}---|---|
{all_rows(found)}
"""


def share(part: int, whole: int) -> str:
    return f"{part / max(1, whole):.0%}"


def reached(entry: dict[str, Any], stage: str) -> bool:
    return stage in entry["seconds"]


def stage_rows(found: Sequence[dict[str, Any]]) -> str:
    rows, before = [], len(found)
    for stage in STAGES:
        count = sum(reached(entry, stage) for entry in found)
        rows.append(f"| {stage} | {count} | {before} |")
        before = count
    return "\n".join(rows)


def medians(passed: Sequence[dict[str, Any]]) -> str:
    if not passed:
        return ""
    covered = statistics.median(entry["prunable"] for entry in passed)
    parts = ("capture", "groups", "oracle", "rewrite")
    seconds = statistics.median(sum(entry["seconds"][part] for part in parts) for entry in passed)
    return (
        f"Of these the median has {covered:.0%} of its parameters in prunable groups and takes {seconds:.1f} s for "
        "capture, groups, oracle and rewrite."
    )


def reasons(found: Sequence[dict[str, Any]]) -> str:
    """What stops several, first."""
    errors = Counter((entry["failed"], brief(entry["error"])) for entry in found if entry["failed"])
    rows = ["| stage | error | model types |", "|---|---|---|"]
    for (stage, error), _ in errors.most_common():
        names = [e["name"] for e in found if e["failed"] == stage and brief(e["error"]) == error]
        rows.append(f"| {stage} | {error} | {', '.join(names)} |")
    return "\n".join(rows) if errors else "None does."


def brief(error: str) -> str:
    return error.replace("|", "/").replace("\n", " ")[:160]


def all_rows(found: Sequence[dict[str, Any]]) -> str:
    rows = []
    for entry in found:
        kinds = entry.get("kinds", {})
        shown = [f"{kinds[kind]:.2f}" if kind in kinds else "" for kind in KINDS]
        lock = next(iter(entry.get("locks", {})), "")
        seconds = " ".join(f"{entry['seconds'].get(s, 0):.0f}" for s in ("capture", "oracle", "checkpoint", "onnx"))
        prunable = f"{entry['prunable']:.2f}" if "prunable" in entry else ""
        cells = [entry["name"], entry["failed"] or "", f"{entry.get('parameters', 0):,}", str(entry.get("nodes", ""))]
        rows.append(f"| {' | '.join([*cells, prunable, *shown, lock.replace('|', '/'), seconds])} |")
    return "\n".join(rows)
