"""`compile`: from a source model and a size to a folder with a checked model in it."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from graphprune import parity
from graphprune.analysis import analyze
from graphprune.artefact_files import export_all, load_backends
from graphprune.card import model_card
from graphprune.dry_run import dry_run
from graphprune.errors import DataError, UsageError
from graphprune.ir import Graph, Step
from graphprune.measure import LARGEST_MEASURED, cost_measures, held_out_perplexity, perplexity_measures
from graphprune.options import ApplyOptions, CompileOptions, Progress, Result, no_progress
from graphprune.output import staging
from graphprune.plan import read_plan
from graphprune.pruning import Pruned, Request, prune
from graphprune.report import Work, list_widths, make_report, resolved_recipe
from graphprune.request import read_budget, read_request
from graphprune.rewrite import apply
from graphprune.selfcheck import check_against_masked
from graphprune.source import capture
from graphprune.text import Text, prepare_text
from graphprune.uniform import has_stock_form, require_stock, without_heads
from graphprune.verify import verify


def compile_model(options: CompileOptions, progress: Progress = no_progress) -> Result:
    """Prune a model to a size, write checkpoint and ONNX model, check both in a fresh process, and measure.

    OUT appears complete or not at all. Raises UsageError for a request that cannot be met, another GraphpruneError
    where a stage fails. With `dry_run` only the configuration is read and nothing is written.
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
        pruned = (
            prune_to_stock(source, request, text, progress)
            if options.uniform
            else prune(source, request, text.batches if text else (), progress)
        )
        step = Step(describe_step(options), options.seed, source.parameter_count(), pruned.graph.parameter_count())
        pruned = replace(pruned, graph=pruned.graph.record(step))
        result = finish(Work(options, source, groups, pruned, text), backends, folder, progress)
    return replace(result, out=options.out)


def apply_plan(options: ApplyOptions, progress: Progress = no_progress) -> Result:
    """Cut a model by a saved plan and write it like `compile_model`; the same plan gives the same weights."""
    plan = read_plan(options.plan)
    backends = load_backends(options.backends)
    with staging(options.out, options.overwrite) as folder:
        progress("reading the model", 0, 0)
        source = capture_for_work(options.model, options.trust_remote_code)
        verify(source)
        graph = apply(source, plan)
        target = str(graph.parameter_count())
        same = CompileOptions(
            options.model,
            target,
            options.out,
            importance="plan",
            allocation="plan",
            statistics=plan.statistics,
            backends=options.backends,
        )
        step = Step(f"apply{{plan={options.plan.name}}}", None, source.parameter_count(), graph.parameter_count())
        work = Work(same, source, analyze(source), Pruned(graph.record(step), plan), None)
        result = finish(work, backends, folder, progress)
    return replace(result, out=options.out)


def prune_to_stock(source: Graph, request: Request, text: Text | None, progress: Progress) -> Pruned:
    """Prune to equal widths that a configuration of the source's architecture has. Raises UsageError without one."""
    batches = text.batches if text else ()
    pruned = prune(source, request, batches, progress)
    if not has_stock_form(pruned.graph):  # heads and residual width may each be expressible and not go together
        budget = replace(request.budget, allowed=without_heads(request.budget.allowed))
        pruned = prune(source, replace(request, budget=budget), batches, progress)
    require_stock(pruned.graph)
    return pruned


def capture_for_work(model: str, trust_remote_code: bool) -> Graph:
    """Capture in float32: half-precision weights are exact in it, and processors compute it well."""
    return capture(model, trust_remote_code=trust_remote_code, dtype=torch.float32)


def read_text(options: CompileOptions, request: Request, source: Graph, progress: Progress) -> Text | None:
    """The text to calibrate on and to measure with; models that take no text are pruned without."""
    if source.source.kind != "decoder":
        if request.needs_data:
            raise UsageError(
                f"--importance {options.importance} needs a language model; use magnitude or the Python API"
            )
        return None
    progress("reading text", 0, 0)
    try:
        return prepare_text(source, options.data, options.samples, options.length, options.seed)
    except DataError:
        if request.needs_data or options.data != CompileOptions.data:
            raise
        return None  # text would only have been measured on


def finish(work: Work, backends: Sequence[Any], folder: Path, progress: Progress) -> Result:
    """Write every artefact, check it in a fresh process, measure, and write the report."""
    began = time.monotonic()
    graph, plan = work.pruned.graph, work.pruned.plan
    small = work.source.parameter_count() <= LARGEST_MEASURED
    progress("comparing with the masked model", 0, 0)
    own_checks = check_against_masked(work.source, graph, plan, work.options.seed) if small else ()
    progress("measuring", 0, 0)
    text = work.text
    scores = (held_out_perplexity(work.source, text), held_out_perplexity(graph, text)) if text else (None, None)
    files = export_all(backends, work.source, graph, folder, progress)
    own = folder / "graphprune"
    own.mkdir(exist_ok=True)
    (own / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    (own / "recipe.yaml").write_text(resolved_recipe(work.options), encoding="utf-8")
    parity.save_reference(graph, folder, work.options.seed)
    progress("checking in a fresh process", 0, 0)
    checks = [*own_checks, *parity.check(folder)]
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


def describe_step(options: CompileOptions) -> str:
    kinds = ",".join(options.prune)
    return (
        f"prune{{target={options.target_params} importance={options.importance} allocation={options.allocation} "
        f"kinds=[{kinds}] steps={options.steps} statistics={options.statistics}}}"
    )
