"""The page docs/architectures.md from what conformance.py found."""

import os
import platform
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from typing import Any

from conformance_suites import TITLES, entries

STAGES = ("model", "capture", "eager", "groups", "oracle", "rewrite", "reference", "checkpoint", "onnx")
KINDS = ("mlp", "attention", "query", "head_dim", "residual", "experts", "vocabulary", "other")
ABOUT = {
    "causal": "Every class of transformers' causal-LM mapping; its ONNX model has a cache.",
    "masked": "Every class of the masked-LM mapping that is not above.",
    "seq2seq": "Every class of the sequence-to-sequence mapping that is not above. Encoder and decoder are one graph "
    "without a cache: both sequences give the logits of the second. Speech models of this mapping that are causal "
    "language models with an audio tower are captured as what reads text.",
    "image": "Every class of the image-classification mapping.",
    "dual": "Every class of the zero-shot-image-classification mapping that is not above.",
    "plain": "One model of each family of torchvision, and of each file of timm, as plain modules with an example "
    "image of 64 pixels a side (timm: of the model's own size), at their real widths.",
}

PEER = """The same small models with the same weights, given to Torch-Pruning {version} by
benchmarks/conformance_peer.py
as its own example for language models does: `BasePruner` with `GroupMagnitudeImportance`, half of the width and
half of the heads, the output layer ignored, `num_heads` said of every projection of queries, keys and values
that is found by its name, the attributes of attention modules set anew afterwards, a text of five tokens to
trace with, no cache, and a limit on processor time that the errors name. *Prunes*: parameters went. *Still runs*: the
model computes finite values afterwards. *Equals the masked model*: a fresh model, pruned but for what a norm
averages over, gives the output of the model with zeros in place of what was cut. It knows nothing of caches,
checkpoints and ONNX, which our last column has."""


def page(found: Mapping[str, Sequence[dict[str, Any]]], peer: Mapping[str, dict[str, Any]]) -> str:
    """The page: a summary of the suites, the same task by Torch-Pruning, and a section for each suite."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("graphprune", "torch", "transformers", "onnxruntime"))
    sections = "\n".join(section(suite, results) for suite, results in found.items() if results)
    return f"""# Architectures

Every class of transformers' mappings, made small and random, through the whole compiler: captured, compared with the
model, grouped, half of the units of every kind cut and compared with the masked model in float64 at 1e-9, the
checkpoint reloaded and the ONNX model run, both compared with the graph. No architecture has code of its own. Made on
{date.today()} with {versions}, Python {platform.python_version()}, {os.cpu_count()} cores, by

    python benchmarks/conformance.py --suite all

| suite | classes | captured | oracle passed | all passed | share |
|---|---|---|---|---|---|
{summary_rows(found)}
{peer_section(found, peer)}
{sections}"""


def summary_rows(found: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    rows = []
    for suite, results in found.items():
        if not results:
            rows.append(f"| [{TITLES[suite]}](#{anchor(suite)}) | not run | | | | |")
            continue
        passed = sum(not entry["failed"] for entry in results)
        counts = [len(results), sum(reached(e, "capture") for e in results), sum(reached(e, "oracle") for e in results)]
        cells = [*map(str, counts), str(passed), share(passed, len(results))]
        rows.append(f"| [{TITLES[suite]}](#{anchor(suite)}) | {' | '.join(cells)} |")
    return "\n".join(rows)


def anchor(suite: str) -> str:
    return "".join(c for c in TITLES[suite].lower().replace(" ", "-") if c.isalnum() or c == "-")


def section(suite: str, found: Sequence[dict[str, Any]]) -> str:
    passed, whole = [entry for entry in found if not entry["failed"]], len(entries(suite)) or len(found)
    return f"""
## {TITLES[suite]}

{ABOUT[suite]} {len(found)} of {whole} classes were run.

| stage | passed | of |
|---|---|---|
{stage_rows(found)}

{len(passed)} pass everything, {share(len(passed), len(found))}. {caches(suite, found, passed)}{medians(passed)}

### Why the others stop

{reasons(found)}

### All

Shares are of the parameters that hold units of a kind, which overlap. Seconds are those of capture, oracle, checkpoint
and ONNX with one thread.

| model type | stops at | parameters | nodes | prunable | {" | ".join(KINDS)} | locked, most often | seconds |
|---|---|---|---|---|{"---|" * len(KINDS)}---|---|
{all_rows(found)}
"""


def share(part: int, whole: int) -> str:
    return f"{part / max(1, whole):.0%}"


def reached(entry: dict[str, Any], stage: str) -> bool:
    """Say whether a stage passed; results from before a stage was known passed it if they passed a later one."""
    return any(later in entry["seconds"] for later in STAGES[STAGES.index(stage) :])


def stage_rows(found: Sequence[dict[str, Any]]) -> str:
    rows, before = [], len(found)
    for stage in STAGES:
        count = sum(reached(entry, stage) for entry in found)
        rows.append(f"| {stage} | {count} | {before} |")
        before = count
    return "\n".join(rows)


def caches(suite: str, found: Sequence[dict[str, Any]], passed: Sequence[dict[str, Any]]) -> str:
    """Causal models whose cache is derived from their graph, and those without one, in words."""
    if suite != "causal":
        return ""
    names = [entry["name"] for entry in passed if entry.get("kind") != "decoder"]
    derived = [entry["name"] for entry in passed if entry.get("derived")]
    count = len(passed) - len(names)
    text = f"{count} of them, {share(count, len(found))} of all, with a cache in ONNX. "
    if derived:
        text += (
            f"Of these {len(derived)} have one that is derived from their graph, since their class has none or none "
            f"that can be captured: {', '.join(derived)}. "
        )
    return text + (f"Without a cache: {', '.join(names)}. " if names else "")


def medians(passed: Sequence[dict[str, Any]]) -> str:
    if not passed:
        return ""
    covered = statistics.median(entry["prunable"] for entry in passed)
    parts = ("capture", "groups", "oracle", "rewrite")
    seconds = statistics.median(sum(entry["seconds"][part] for part in parts) for entry in passed)
    return (
        f"Of all that pass, the median has {covered:.0%} of its parameters in prunable groups "
        f"and takes {seconds:.1f} s for capture, groups, oracle and rewrite."
    )


def reasons(found: Sequence[dict[str, Any]]) -> str:
    """What stops several, first."""
    errors = Counter((entry["failed"], brief(entry["error"])) for entry in found if entry["failed"])
    rows = ["| stage | error | model types |", "|---|---|---|"]
    for (stage, error), _ in errors.most_common():
        names = [e["name"] for e in found if e["failed"] == stage and brief(e["error"]) == error]
        rows.append(f"| {stage} | {error} | {', '.join(names)} |")
    return "\n".join([*rows, *upstream(found)]) if errors else "None does."


def upstream(found: Sequence[dict[str, Any]]) -> list[str]:
    """What transformers' own exporter says of those that are not captured."""
    told = [entry for entry in found if entry.get("upstream")]
    if not told:
        return []
    head = "\nThe same models, without a cache, by transformers' own exporter (benchmarks/conformance_upstream.py):\n"
    rows = [f"| {entry['name']} | {brief(entry['upstream'])} |" for entry in told]
    return [head, "| model type | its exporter |", "|---|---|", *rows]


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


def peer_section(found: Mapping[str, Sequence[dict[str, Any]]], peer: Mapping[str, dict[str, Any]]) -> str:
    """The same models given to Torch-Pruning, where that was run."""
    if not peer:
        return ""
    rows = []
    for suite, results in found.items():
        theirs = [peer[f"{suite}/{e['name']}"] for e in results if f"{suite}/{e['name']}" in peer]
        ours = {f"{suite}/{e['name']}": e for e in results}
        if theirs:
            cells = [sum(t[key] is True for t in theirs) for key in ("pruned", "runs", "half", "masked")]
            oracle = sum(reached(ours[t["key"]], "oracle") for t in theirs)
            passed = sum(not ours[t["key"]]["failed"] for t in theirs)
            rows.append(f"| {TITLES[suite]} | {len(theirs)} | {' | '.join(map(str, [*cells, oracle, passed]))} |")
    errors = Counter(brief(t["error"]) for t in peer.values() if t["error"])
    reasons = "\n".join(f"| {count} | {error} |" for error, count in errors.most_common(25))
    return f"""
## The same task by Torch-Pruning

{PEER.format(version=next(iter(peer.values()))["version"])}

| suite | models | prunes | still runs | at most 75% is left | equals the masked model | our oracle | all of ours |
|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

What stops it, most often first:

| models | error |
|---|---|
{reasons}
"""
