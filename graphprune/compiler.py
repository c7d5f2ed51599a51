"""`compile`: from a source model and a size to a folder with a checked model in it."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphprune import parity
from graphprune.analysis import analyze
from graphprune.artefact_files import export_all, load_backends, record_files
from graphprune.budget import Budget, parse_target
from graphprune.card import model_card
from graphprune.errors import DataError, UsageError
from graphprune.groups import Groups
from graphprune.ir import Graph, Step
from graphprune.measure import cost_measures, held_out_perplexity, perplexity_measures
from graphprune.options import ApplyOptions, CompileOptions, Measure, Progress, Result, Width, no_progress
from graphprune.output import staging
from graphprune.plan import Plan, read_plan
from graphprune.pruning import Pruned, Request, prune
from graphprune.rewrite import apply
from graphprune.source import capture
from graphprune.spec import parse_spec
from graphprune.text import Text, describe_text, prepare_text
from graphprune.uniform import allowed_counts, require_stock
from graphprune.verify import verify


def compile_model(options: CompileOptions, progress: Progress = no_progress) -> Result:
    """Prune a model to a size, write checkpoint and ONNX model, check both in a fresh process, and measure.

    OUT appears complete or not at all. Raises UsageError for a request that cannot be met, another GraphpruneError where
    a stage fails. With `dry_run` only the configuration is read and nothing is written.
    """
    request = read_request(options)
    backends = load_backends(options.backends)
    if options.dry_run:
        return dry_run(options, request, progress)
    assert options.out is not None
    with staging(options.out, options.overwrite) as folder:
        progress("reading the model", 0, 0)
        source = capture_for_work(options.model, options.trust_remote_code)
        verify(source)
        groups = analyze(source)
        request = replace(request, budget=read_budget(options, source, groups))
        text = read_text(options, request, source, progress)
        pruned = prune(source, request, text.batches if text else (), progress)
        if options.uniform:
            require_stock(pruned.graph)
        step = Step(describe_step(options), options.seed, source.parameter_count(), pruned.graph.parameter_count())
        pruned = replace(pruned, graph=pruned.graph.record(step))
        result = finish(Work(options, source, groups, pruned, text), backends, folder, progress)
    return replace(result, out=options.out)


def apply_plan(options: ApplyOptions, progress: Progress = no_progress) -> Result:
    """Cut a model by a saved plan and write it like `compile_model`; the same plan gives the same weights, bit for bit."""
    plan = read_plan(options.plan)
    backends = load_backends(options.backends)
    with staging(options.out, options.overwrite) as folder:
        progress("reading the model", 0, 0)
        source = capture_for_work(options.model, options.trust_remote_code)
        verify(source)
        graph = apply(source, plan)
        target = str(graph.parameter_count())
        same = CompileOptions(options.model, target, options.out, backends=options.backends, importance="plan")
        step = Step(f"apply{{plan={options.plan.name}}}", None, source.parameter_count(), graph.parameter_count())
        work = Work(same, source, analyze(source), Pruned(graph.record(step), plan), None)
        result = finish(work, backends, folder, progress)
    return replace(result, out=options.out)


@dataclass(frozen=True, eq=False)
class Work:
    """What the writing stages need: the request, both graphs, and the text they are measured on."""

    options: CompileOptions
    source: Graph
    groups: Groups
    pruned: Pruned
    text: Text | None


def read_request(options: CompileOptions) -> Request:
    """Resolve plug-ins before any work is done, so that a wrong name costs nothing."""
    if options.method is not None:
        raise UsageError(f"no recipe is named {options.method!r}; name --importance and --allocation instead")
    if "vocabulary" in options.prune:
        raise UsageError("--prune vocabulary would need the tokenizer's ids changed, which compile does not do; use a plan")
    importance, allocation = parse_spec("importance", options.importance), parse_spec("allocation", options.allocation)
    budget = Budget(1, options.min_units, 0.0, options.round_to, options.uniform)
    return Request(budget, importance, allocation, options.prune, options.steps, options.floor, options.statistics)


def read_budget(options: CompileOptions, source: Graph, groups: Groups) -> Budget:
    target = parse_target(options.target_params, source.parameter_count())
    allowed = allowed_counts(source, groups) if options.uniform else {}
    return Budget(target, options.min_units, 0.0, options.round_to, options.uniform, allowed)


def capture_for_work(model: str, trust_remote_code: bool) -> Graph:
    """Capture in float32: half-precision weights are exact in it, and processors compute it well."""
    return capture(model, trust_remote_code=trust_remote_code, dtype=torch.float32)


def read_text(options: CompileOptions, request: Request, source: Graph, progress: Progress) -> Text | None:
    """The text to calibrate on and to measure with; models that take no text are pruned without."""
    if source.source.kind != "decoder":
        if request.importance.needs_data:
            raise UsageError(f"--importance {options.importance} needs a language model; use magnitude or the Python API")
        return None
    progress("reading text", 0, 0)
    try:
        return prepare_text(source, options.data, options.samples, options.length, options.seed)
    except DataError:
        if request.importance.needs_data or "blocks" in options.prune or options.data != CompileOptions.data:
            raise
        return None  # text would only have been measured on


def dry_run(options: CompileOptions, request: Request, progress: Progress) -> Result:
    """Plan widths from the configuration alone; scores are equal, so shares are uniform unless text were read."""
    progress("reading the configuration", 0, 0)
    graph = capture(options.model, weights=False, trust_remote_code=options.trust_remote_code)
    groups = analyze(graph)
    request = replace(request, budget=read_budget(options, graph, groups), importance=EqualScores(), steps=1)
    if "blocks" in options.prune:
        raise UsageError("--dry-run cannot choose blocks, which are measured on text; leave blocks out or run it")
    request = replace(request, allocation=parse_spec("allocation", "uniform"))
    pruned = prune(graph, request, (), progress)
    after = analyze(pruned.graph)
    notes = (*pruned.notes, "a dry run shares the cut out evenly; scores of real weights decide where it falls")
    measures = (*cost_measures(groups, after), *weight_measure(groups, after))
    return Result(None, measures, list_widths(groups, pruned.plan), pruned.plan.dropped, (), notes)


def weight_measure(before: Groups, after: Groups) -> tuple[Measure, ...]:
    sizes = before.costs.weight_bytes(before.sizes()), after.costs.weight_bytes(after.sizes())
    return (Measure("weights", float(sizes[0]), float(sizes[1]), "bytes"),)


class EqualScores:
    """Scores for a dry run: no unit is better than another."""

    name = "equal"
    needs_data = False

    def score(self, graph: Graph, groups: Sequence[Any], batches: Sequence[Any] = (), loss: Any = None) -> dict[str, Tensor]:
        return {group.id: torch.ones(group.units) for group in groups}


def finish(work: Work, backends: Sequence[Any], folder: Path, progress: Progress) -> Result:
    """Write every artefact, check it in a fresh process, measure, and write the report."""
    began = time.monotonic()
    graph, plan = work.pruned.graph, work.pruned.plan
    progress("measuring", 0, 0)
    text = work.text
    scores = (held_out_perplexity(work.source, text), held_out_perplexity(graph, text)) if text else (None, None)
    files = export_all(backends, work.source, graph, folder, progress)
    own = folder / "graphprune"
    own.mkdir(exist_ok=True)
    (own / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    parity.save_reference(graph, folder, work.options.seed)
    progress("checking in a fresh process", 0, 0)
    checks = parity.check(folder)
    parity.require(checks)
    measures = (*cost_measures(work.groups, analyze(graph)), *files.measures, *perplexity_measures(*scores))
    widths = list_widths(work.groups, plan)
    sample = files.sample(text, graph)
    result = Result(None, measures, widths, plan.dropped, tuple(checks), work.pruned.notes, sample)
    generic = (folder / "modeling_graphprune.py").exists()
    (folder / "README.md").write_text(model_card(graph, work.options, measures, generic, files.onnx), encoding="utf-8")
    report = make_report(work, result, folder, time.monotonic() - began)
    (own / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return replace(result, report=report)


def make_report(work: Work, result: Result, folder: Path, seconds: float) -> dict[str, Any]:
    """Everything about the run as plain data."""
    import transformers

    source = work.source.source
    options = work.options
    return {
        "schema_version": 1,
        "source": {"id": source.name, "revision": source.revision, "files_sha256": dict(source.file_hashes)},
        "target": {"kind": "parameters", "value": options.target_params},
        "achieved": {"parameters": work.pruned.graph.parameter_count()},
        "method": {"importance": options.importance, "allocation": options.allocation, "steps": options.steps},
        "text": describe_text(options.data) if work.text else None,
        "statistics": options.statistics,
        "measures": [{"name": m.name, "before": m.before, "after": m.after, "unit": m.unit} for m in result.measures],
        "widths": [vars(w) for w in result.widths],
        "dropped": list(result.dropped),
        "parity": [vars(c) for c in result.checks],
        "notes": list(result.notes),
        "history": [vars(step) for step in work.pruned.graph.history],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "seconds": round(seconds, 1),
        "seed": options.seed,
        "files": record_files(folder),
    }


def list_widths(groups: Groups, plan: Plan) -> tuple[Width, ...]:
    """Every prunable group's width before and after."""
    return tuple(
        Width(g.id, g.kind, g.block, g.units, len(plan.keep.get(g.id, range(g.units)))) for g in groups.prunable()
    )


def describe_step(options: CompileOptions) -> str:
    kinds = ",".join(options.prune)
    return (
        f"prune{{target={options.target_params} importance={options.importance} allocation={options.allocation} "
        f"kinds=[{kinds}] steps={options.steps} statistics={options.statistics}}}"
    )
