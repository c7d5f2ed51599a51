"""The page docs/edge-speed.md from what edge_speed.py measured."""

import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

MIB = 2**20


def page(exports: dict[str, Any], speeds: list[dict[str, Any]], arguments: Any, load: float) -> str:
    found = {entry["subject"]: entry for entry in speeds}
    return f"""# Speed and size of the ONNX models

Measured on {date.today()} with {versions()},
Python {platform.python_version()}, {os.cpu_count()} cores (load before the run {load:.1f}), by

    python benchmarks/edge_speed.py --context {arguments.context} --tokens {arguments.tokens} \
--runs {arguments.runs} --threads {arguments.threads}

A Llama with random weights: 12 layers, width 768, 12 query and 4 key heads of 64, MLP width 3072, a tied vocabulary
of 16,384; `uniform` keeps half of the heads and MLP channels in every layer, `per-layer` all in the first and hardly
any in the last.
Every model runs in a process of its own, all take turns, and medians of {arguments.runs} runs are shown:
{arguments.context} tokens of context, {arguments.tokens} new ones, {arguments.threads} threads.

## Decoding follows bytes

`speed-up` is decode tokens/s over the dense model's in the same precision, `bytes saved` the dense file over this one;
the goal is a ratio of the two of at least 0.9 in onnx-ort. Prefill and decode are tokens a second.

| model | parameters | file MiB | prefill | decode | first token ms | peak MiB | speed-up | bytes saved | ratio |
|---|---|---|---|---|---|---|---|---|---|
{speed_rows(exports, found)}

int4 packs linear layers in blocks of 32 weights with offsets; onnx-int4-all packs the embeddings and the tied head too.
{composition(found)}

## Beside onnxruntime-genai's model builder

Both graphs of the same checkpoint in onnxruntime-genai, in the run above, full precision; the goal is at least 0.95.

{theirs(found)}

## What an export costs

Capture, cut and write, in a process of its own. Peak memory is that of the process; imports alone take what is in
brackets. The goals are 60 s for the dense model, 2.5 times the source's weights, a model above 2 GB within 24 GB, and
files within 2 % of the weights' bytes by the cost polynomial.

| model | parameters | capture s | write s | peak MiB (imports) | times the source's weights | file over polynomial |
|---|---|---|---|---|---|---|
{export_rows(exports)}
"""


def versions() -> str:
    names = ("graphprune", "torch", "transformers", "onnxruntime", "onnxruntime-genai")
    return ", ".join(f"{name} {found}" for name in names if (found := installed(name)))


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def speed_rows(exports: dict[str, Any], found: dict[str, Any]) -> str:
    rows = []
    for subject, entry in found.items():
        name, _, place = subject.partition("/")
        dense = found.get(f"dense/{place}")
        if " in " in subject or dense is None:
            continue
        gained, saved = entry["decode"] / dense["decode"], dense["size"] / entry["size"]
        cells = [f"{name}, {place}", f"{exports[name]['parameters']:,}", f"{entry['size'] / MIB:.1f}"]
        cells += [f"{entry['prefill']:.0f}", f"{entry['decode']:.1f}", f"{entry['first']:.0f}"]
        cells += [f"{entry['memory'] / MIB:.0f}", f"{gained:.2f}", f"{saved:.2f}", f"{gained / saved:.2f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def composition(found: dict[str, Any]) -> str:
    """What pruning and int4 give together."""
    dense, both = found["dense/onnx-ort"], found["uniform/onnx-int4-all"]
    speed, size = both["decode"] / dense["decode"], dense["size"] / both["size"]
    return f"Pruning and int4 together: {speed:.1f} times as fast, {size:.1f} times smaller than the dense onnx-ort."


def theirs(found: dict[str, Any]) -> str:
    names = [name for name in ("dense", "uniform") if f"{name}/builder in genai" in found]
    if not names:
        return "onnxruntime-genai was not installed."
    lines = [
        "| model | ours: prefill | decode | builder: prefill | decode | ours over builder, prefill | decode |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        ours, other = found[f"{name}/onnx-ort in genai"], found[f"{name}/builder in genai"]
        pairs = [f"{x['prefill']:.0f} | {x['decode']:.1f}" for x in (ours, other)]
        ratios = [f"{ours[part] / other[part]:.2f}" for part in ("prefill", "decode")]
        lines.append(f"| {name} | {' | '.join(pairs + ratios)} |")
    return "\n".join(lines)


def export_rows(exports: dict[str, Any]) -> str:
    rows = []
    for name, entry in exports.items():
        ort, source = entry["onnx-ort"], exports["large" if name == "large" else "dense"]
        cells = [name, f"{entry['parameters']:,}", f"{entry['capture']:.1f}", f"{ort['seconds']:.1f}"]
        cells += [f"{ort['peak'] / MIB:,.0f} ({entry['imports'] / MIB:,.0f})"]
        cells += [f"{ort['peak'] / source['polynomial']:.2f}", f"{ort['bytes'] / entry['polynomial']:.4f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
