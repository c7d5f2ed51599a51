"""Deliver: a finished graph becomes a checked and measured folder."""

import functools
import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphprune.analysis.analyse import analyze
from graphprune.artefacts import parity
from graphprune.artefacts.check_process import read_reference
from graphprune.artefacts.example_calls import example_calls
from graphprune.artefacts.export import follow_umask, write_all
from graphprune.budget.backend import Backend
from graphprune.compiler.disk import bytes_to_write, require_disk
from graphprune.compiler.examples import agreement_measures, measure_examples, unread
from graphprune.compiler.vocabulary_start import (
    vocabulary_measures,
    vocabulary_notes,
)
from graphprune.data.calibration import Text, held_out_part, measured_part, prepare_text, training_part
from graphprune.data.tokenizer_files import has_tokenizer
from graphprune.data.tokens import load_tokenizer, tokens_beyond
from graphprune.edits.editing import edited_groups
from graphprune.edits.growth import Prompt
from graphprune.encoders.examples import Left
from graphprune.errors import DataError
from graphprune.evaluation.measures import (
    LARGEST_MEASURED,
    NO_FASTER,
    artefact_measures,
    check_file,
    cost_measures,
    held_out_perplexity,
    perplexity_measures,
    running_decoder,
    sparse_measures,
)
from graphprune.evaluation.samples import prompt_for, read_tokens, two_samples
from graphprune.evaluation.variants import variant_measures
from graphprune.frontend.room import settled
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import Recipe
from graphprune.pipeline.run_state import METRICS
from graphprune.pipeline.run_text import RUN
from graphprune.pipeline.stages import needs_text
from graphprune.processes import Spare
from graphprune.progress import Progress, no_progress
from graphprune.reporting.card import model_card
from graphprune.reporting.page import report_page
from graphprune.reporting.privacy import hidden_paths, without_paths
from graphprune.reporting.report import (
    is_trained,
    list_widths,
    make_report,
    notes_of,
    read_metrics,
    resolved_recipe,
)
from graphprune.reporting.results import Result
from graphprune.reporting.schema import Report
from graphprune.reporting.verdict import Floor, Verdict, floor_of, judge, judge_embeddings, judge_variants
from graphprune.reporting.work import Asked, Work
from graphprune.rewriting.apply import apply
from graphprune.rewriting.oracle import check_against_masked, require_same_structure
from graphprune.running import comparison
from graphprune.running.perplexity import Perplexity
from graphprune.vocabulary.prompts import lead_of, prompt_size


def read_text(asked: Asked, recipe: Recipe, source: Graph, apart: bool, progress: Progress) -> Text | None:
    """The text to calibrate on and to measure with; models that take no text are pruned without.

    What is measured on is the same part of a source whatever the method. A source too small to be parted is cut where
    its last tenth begins, unless they must stand `apart`, as for a model that learns from its text.
    """
    needed, calibration = needs_text(recipe), recipe.calibration
    if source.source.kind != "decoder":
        if needed:
            raise unread(recipe, source)
        return None
    progress("reading text", 0, 0)
    part = functools.partial(
        prepare_text,
        source,
        samples=calibration.samples,
        length=calibration.length,
        seed=asked.seed,
        field=asked.field,
    )
    try:
        return part(training_part(asked.data, asked.held_out), held_out=held_out_part(asked.data, asked.held_out))
    except DataError:
        if not apart and asked.held_out is None and asked.data != CompileOptions.data:
            return part(asked.data)
        if needed or asked.data != CompileOptions.data:
            raise
        return None  # text would only have been measured on


@dataclass(frozen=True, eq=False)
class Quality:
    """What both models make of the held-out text: the text in the source's tokens, both perplexities, what needs no
    model, and the verdict."""

    before: Text | None
    dense: Perplexity | None
    left: Perplexity | None
    floor: Floor | None
    verdict: Verdict


def finish(
    work: Work, backends: Sequence[Backend], folder: Path, progress: Progress, spare: Spare | None = None
) -> Result:
    """Write every artefact, check it in a fresh process or a spare one, measure, and write the report."""
    graph, plan, text = work.graph, work.graph.lineage.plan, led_text(work)
    small = work.source.parameter_count() <= LARGEST_MEASURED
    progress("comparing with the masked model", 0, 0)
    own_checks = check_against_masked(work.source, shape_made(work), plan, work.asked.seed) if small else ()
    quality = measure_quality(work, small, progress)
    agreed = measure_examples(work, progress) if small else Left()
    require_disk(folder, folder, bytes_to_write(graph, backends))
    write_all(backends, graph, folder, progress)
    files = artefact_measures(backends, work.source, graph, folder, progress)
    onnx = running_decoder(backends, graph) is not None
    variants = variant_measures(folder, text, graph.parameter_count(), progress)
    own = write_own(work, folder)
    parity.save_reference(settled(graph, work.memory), folder, work.asked.seed)
    prompt, count = prompt_for(text, graph) if onnx else ([], 0)
    checked = parity.check_and_go_on(folder, prompt, count, progress, work.memory, spare)
    checks = [*own_checks, *checked.checks]
    comparison.require(checks)
    checks += judge_variants(variants, quality.left, text, quality.floor)
    costs = (*vocabulary_measures(work.vocabulary, quality.before, text), *cost_measures(work.groups, analyze(graph)))
    same = work.vocabulary is None
    measures = (*costs, *files, *perplexity_measures(quality.dense, quality.left, same))
    packed = sparse_measures(work.source, graph)
    measures = (*measures, *packed, *agreement_measures(agreed), *variants)
    widths = list_widths(edited_groups(work.source, plan) if plan.edits else work.groups, plan)
    progress("writing the report", 0, 0)
    sample = read_tokens(text, graph, checked.made) if text is not None and count else ""
    samples = two_samples(quality.before, work.source, sample)
    notes = (
        *vocabulary_notes(work.vocabulary, work.asked.data),
        *notes_of(work),
        *edit_notes(plan),
        *work.device_notes,
        *token_notes(graph, text),
        *((NO_FASTER,) if packed else ()),
    )
    notes = (*notes, *(check_file(work.target, backends, folder) if work.target else ()))
    verdict = judge_embeddings(agreed.embeddings, is_trained(work.recipe)) if work.examples else quality.verdict
    result = Result(None, measures, widths, plan.dropped, tuple(checks), notes, sample, samples, verdict)
    generic = (folder / "modeling_graphprune.py").exists()
    calls = example_calls(folder, *read_reference(folder)) if (folder / "config.json").exists() else ()
    card = model_card(work, result, generic, onnx, calls)
    (folder / "README.md").write_text(without_paths(card, hidden_paths(work, folder)), encoding="utf-8")
    return write_report(work, result, folder, own)


def measure_quality(work: Work, small: bool, progress: Progress) -> Quality:
    """Both models on the text that is held out, where they are small enough for it."""
    progress("measuring")
    before, text = source_text(work), led_text(work)

    def measure(graph: Graph, own: Text | None, name: str) -> Perplexity | None:
        if not small or own is None or before is None:
            return None
        return held_out_perplexity(graph, own, work.device, lambda done, all: progress("measuring", done, all, name))

    dense, left = measure(work.source, before, "the source"), measure(work.graph, text, "the result")
    vocabulary = vocabulary_size(work.graph)
    floor = floor_of(text, vocabulary) if left is not None and text is not None and vocabulary else None
    return Quality(before, dense, left, floor, judge(dense, left, floor, is_trained(work.recipe)))


def write_own(work: Work, folder: Path) -> Path:
    """The folder with what is graphprune's own: the plan, the recipe, the measurements of the training; and what to run
    again, beside it."""
    own = folder / "graphprune"
    own.mkdir(exist_ok=True)
    (own / "plan.json").write_text(work.graph.lineage.plan.to_json(), encoding="utf-8")
    recipe = resolved_recipe(work.asked, work.recipe, work.source.source.title)
    (own / "recipe.yaml").write_text(without_paths(recipe, hidden_paths(work, folder)), encoding="utf-8")
    if work.run is not None:
        (folder / RUN).write_text(work.run, encoding="utf-8")
    for path in work.metrics:
        shutil.copyfile(path, own / METRICS)
    return own


def write_report(work: Work, result: Result, folder: Path, own: Path) -> Result:
    """The report as data and as a page; its seconds are all since the command began."""
    made = make_report(work, result, folder, time.time() - work.began).model_dump()
    data = without_paths(made, hidden_paths(work, folder))
    report = Report.model_validate(data)
    (own / "report.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (own / "report.html").write_text(report_page(report, read_metrics(work.metrics)), encoding="utf-8")
    follow_umask(folder)
    return replace(result, report=data)


def token_notes(graph: Graph, text: Text | None) -> tuple[str, ...]:
    """A note where the tokenizer knows tokens that the model has no rows for: none of them can be read."""
    tokenizer = text.tokenizer if text else None
    if tokenizer is None and graph.source.files is not None and has_tokenizer(graph.source.files):
        tokenizer = load_tokenizer(graph.source.files)
    rows = vocabulary_size(graph)
    beyond = tokens_beyond(tokenizer, rows) if tokenizer is not None else []
    prompted = text is not None and text.lead.prompt and not prompt_size(graph.lineage.plan)
    led = (
        "the source has a learned prompt, behind which both are measured, and which scores and trainings did not see; "
        "better cut the model that it was learned for, and learn one of the result",
    )
    if not beyond:
        return led if prompted else ()
    named = f"{beyond[0]!r}" if len(beyond) == 1 else f"{beyond[0]!r} and {len(beyond) - 1} more"
    return (f"the tokenizer has tokens that the model, with {rows:,} rows, cannot read: {named}; do not use them",)


def edit_notes(plan: Plan) -> tuple[str, ...]:
    """What was done to the model before it was cut; biases are told of by what fills them."""
    counts = Counter(edit.kind for edit in plan.edits if edit.kind != "bias" and edit.name != Prompt.name)
    told = ", ".join(f"{kind} ({count})" for kind, count in counts.items())
    made = (f"edited before the cut, which leaves what is computed as it is: {told}",) if told else ()
    tokens = prompt_size(plan)
    prompt = (
        f"its tokenizer puts a prompt of {tokens} learned tokens before every text; readers with a tokenizer of their "
        "own, such as llama.cpp and genai, are to be given its ids",
    )
    return (*made, *(prompt if tokens else ()))


def source_text(work: Work) -> Text | None:
    """What is measured on, in the source's tokens: they are others where tokens were cut."""
    if work.vocabulary is None or work.recipe is None or work.text is None:
        return work.text
    text = read_text(work.asked, work.recipe, work.source, True, no_progress)
    return measured_part(text, work.source.parameter_count()) if text else None


def led_text(work: Work) -> Text | None:
    """What the result is measured on: behind the prompt that its tokenizer puts before every text, where it has one."""
    if work.text is None or work.text.tokenizer is None or not prompt_size(work.graph.lineage.plan):
        return work.text
    lead = lead_of(work.graph, work.text.tokenizer)
    return replace(work.text, lead=lead, bos=lead.begin(work.text.bos))


def shape_made(work: Work) -> Graph:
    """The graph whose cut is compared: the one that ships, or where its weights were changed after the cut, the cut by
    its plan, which must have the same structure. Raises InvariantError."""
    if not (work.solved if work.recipe is None else work.recipe.changes_weights):
        return work.graph
    plan = work.graph.lineage.plan
    made = apply(work.source, plan)
    # A rewrite leaves out what nothing reads; where nothing was cut, none has been here.
    require_same_structure(made, work.graph if plan != Plan() else apply(work.graph, plan))
    return made
