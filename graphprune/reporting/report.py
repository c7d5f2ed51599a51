"""The report: everything about a run as plain data."""

import itertools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from graphprune.analysis.groups import Groups
from graphprune.artefacts.export import record_files
from graphprune.data.calibration import describe_text
from graphprune.data.sources import shown_source
from graphprune.ir.plan import Plan
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import Recipe
from graphprune.reporting import schema
from graphprune.reporting.results import Result, Width
from graphprune.reporting.schema import Report
from graphprune.reporting.verdict import Verdict
from graphprune.reporting.work import Asked, Work
from graphprune.training.metrics import Line
from graphprune.vocabulary.cutting import VocabularyCut


def make_report(work: Work, result: Result, folder: Path, seconds: float) -> Report:
    """Everything about the run."""
    import transformers

    source = work.source.source
    graph = work.graph
    return Report(
        schema_version=1,
        source=schema.Source(id=source.title, revision=source.revision, files_sha256=dict(source.file_hashes)),
        target=describe_target(work),
        achieved=schema.Achieved(parameters=graph.parameter_count()),
        method=describe_method(work.recipe),
        training=summarise_training(work.metrics),
        text=split_text(work),
        vocabulary=describe_vocabulary(work.vocabulary) if work.vocabulary else None,
        statistics=graph.lineage.plan.statistics,
        verdict=describe_verdict(result.verdict) if result.verdict else None,
        measures=[schema.Measure(**vars(m)) for m in result.measures],
        widths=[schema.Width(**vars(w)) for w in result.widths],
        dropped=list(result.dropped),
        importance=dict(graph.memo.get("importance", {})),
        parity=[schema.Check(**vars(c), state=c.state) for c in result.checks],
        notes=list(result.notes),
        samples=[schema.Sample(name=name, text=sample) for name, sample in result.samples],
        asked=[schema.Answer(question=q, answer=a) for memo in graph.memo.values() for q, a in memo.get("answers", ())],
        history=[schema.Step(**vars(step)) for step in graph.history],
        versions={"torch": str(torch.__version__), "transformers": transformers.__version__},
        seconds=round(seconds, 1),
        seed=work.asked.seed,
        files=[schema.File(**file) for file in record_files(folder)],
    )


def split_text(work: Work) -> schema.Text | None:
    """The text that was looked at, and what was only measured on."""
    if work.examples is not None:
        return schema.Text(**describe_examples(work.asked))
    if work.text is None:
        return None
    return schema.Text(**describe_text(work.asked.data, work.source.parameter_count(), work.asked.held_out))


def describe_examples(asked: Asked) -> dict[str, str]:
    """The text for the report: what was looked at, and what was only measured on."""
    if asked.held_out is not None:
        return {"source": shown_source(asked.data), "held_out": shown_source(asked.held_out)}
    said = (
        "files of the library chosen by name"
        if asked.data == "stdlib"
        else "its last tenth, or of rows, every twentieth"
    )
    return {"source": shown_source(asked.data), "held_out": f"{said}; the first passages of it are measured on"}


def describe_verdict(verdict: Verdict) -> schema.Verdict:
    floor = verdict.floor
    return schema.Verdict(
        standing=verdict.standing,
        reason=verdict.reason,
        before=verdict.before,
        after=verdict.after,
        trigrams=floor.trigrams if floor else None,
        guess=floor.guess if floor else None,
    )


def describe_vocabulary(cut: VocabularyCut) -> schema.Vocabulary:
    return schema.Vocabulary(
        before=cut.before, after=cut.after, counted=cut.counted, covered=cut.covered, left_out=list(cut.left_out)
    )


def describe_target(work: Work) -> schema.Target:
    """What was asked for, and what was measured on this machine to find the widths that meet it."""
    kind, value = work.asked.target
    asked = {"kind": kind.removeprefix("--").removeprefix("target-"), "value": value}
    return schema.Target.model_validate({**asked, "measured": dict(work.measured)})


def describe_method(recipe: Recipe | None) -> dict[str, object]:
    """The recipe with all its fields, as plain data; a replayed plan has none."""
    return {"name": "plan"} if recipe is None else recipe.model_dump(mode="json")


def summarise_training(files: Sequence[Path]) -> list[schema.Stage]:
    """One row a stage: its tokens, those on which a cut was learned too, its last step in the whole schedule and loss,
    and the first and last held-out loss.

    Losses are in nats per token; None where not measured.
    """
    lines, rows = read_metrics(files), []
    for stage in dict.fromkeys(line["stage"] for line in lines):
        own = [line for line in lines if line["stage"] == stage]
        held = [line["held_out"] for line in own if line["held_out"] is not None]
        last = own[-1]
        rows.append(
            schema.Stage(
                stage=stage,
                step=last["step"],
                tokens=tokens_of(own),
                loss=last["loss"],
                held_out_first=held[0] if held else None,
                held_out_last=held[-1] if held else None,
            )
        )
    return rows


def tokens_of(lines: Sequence[Line]) -> int:
    """The tokens of trainings one after the other, each of which counts from its own beginning."""
    counts = [line["tokens"] for line in lines]
    ends = [before for before, after in itertools.pairwise(counts) if after <= before]
    return sum(ends) + counts[-1]


def read_metrics(files: Sequence[Path]) -> list[Line]:
    """The lines of all files of metrics, in order."""
    return [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def is_trained(recipe: Recipe | None) -> bool:
    return recipe is not None and recipe.recover is not None


def notes_of(work: Work) -> tuple[str, ...]:
    """What the passes wanted the user to know, and how much training there was."""
    notes, training = work.graph.notes, summarise_training(work.metrics)
    tokens, parameters = sum(row.tokens for row in training), work.graph.parameter_count()
    if not tokens:
        return notes
    ratio = tokens / parameters
    return (*notes, f"trained on {tokens:,} tokens, {ratio:.2g} a parameter; --train-tokens and more --data go further")


def resolved_recipe(asked: Asked, recipe: Recipe | None, model: str) -> str:
    """The recipe with every option of the run in it, headed by the command that runs it again from where MODEL lies."""
    command = ["graphprune", "compile", model, "-o", "OUT", *asked.target]
    command += ["--vocabulary", asked.vocabulary] if asked.vocabulary is not None else []
    command += ["--part", asked.part] if asked.part != CompileOptions.part else []
    held_out = ["--held-out", shown_source(asked.held_out)] if asked.held_out else []
    command += ["--data", shown_source(asked.data), *held_out]
    command += ["--field", asked.field] if asked.field != Asked.field else []
    command += ["--seed", str(asked.seed), "--method", "recipe.yaml"]
    if recipe is None:
        return "# made by graphprune apply: plan.json beside this file is all there is to it\n"
    return f"# {shlex.join(command)}\n{recipe.to_yaml()}"


def list_widths(groups: Groups, plan: Plan) -> tuple[Width, ...]:
    """Every prunable group's width before and after."""
    return tuple(
        Width(g.id, g.kind, g.block, g.units, len(plan.keep.get(g.id, range(g.units)))) for g in groups.prunable()
    )
