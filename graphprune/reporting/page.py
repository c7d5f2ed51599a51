"""report.html: the report for people, one file without scripts, from nothing but report.json and the metrics."""

import functools
from collections.abc import Iterator, Sequence
from importlib.resources import files

from markupsafe import Markup

from graphprune.amounts import show_amount
from graphprune.artefacts.checks.genai_check import NAME as GENAI
from graphprune.reporting.charts import both, draw_bars, draw_curves, draw_heat
from graphprune.reporting.schema import Check, Measure, Report, Target, Width
from graphprune.reporting.verdict import WORDS
from graphprune.training.metrics import Line

_SHOWN_FIRST = ("parameters", "checkpoint file", "held-out bits per byte", "onnxruntime decode tokens/s")


def report_page(report: Report, metrics: Sequence[Line] = ()) -> str:
    """The page of a report (report.json's content) and the lines of its metrics, oldest first."""
    import jinja2

    folder = files("graphprune.reporting").joinpath("report_files")
    text, style = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.html.j2", "style.css.j2"))
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(text)
    method = report.method.get("name", "")
    return template.render(
        style=Markup(style),  # a file of ours
        title=f"{report.source.id.rstrip('/').split('/')[-1]}, compiled to {name_target(report.target)}",
        subtitle=f"by graphprune with {method}, seed {report.seed}, in {report.seconds:.0f} s",
        verdict=verdict(report),
        tiles=list(tiles(report.measures)),
        notes=report.notes,
        measures=[measure_row(row) for row in report.measures],
        widths=width_charts(report.widths),
        dropped=report.dropped,
        heat=heat_map(report),
        curves=both(lambda frame: draw_curves(metrics, frame)),
        checks=[check_row(check) for check in report.parity],
        compatibility=compatibility(report),
        samples=report.samples,
        asked=report.asked,
        facts=facts(report),
    )


def verdict(report: Report) -> dict[str, str] | None:
    """The verdict's words, how to colour them, and its reason; None in reports of before."""
    found = report.verdict
    if found is None:
        return None
    look = {"kept": "good", "trainable": "care", "broken": "bad", "unknown": "soft"}[found.standing]
    return {"words": WORDS[found.standing], "look": look, "reason": found.reason}


def name_target(target: Target) -> str:
    """60%, or what else was asked for with its name."""
    words = {"size": "file size", "kv-bytes": "cache a token", "speed": "the speed", "vocabulary": "tokens"}
    return " ".join([target.value, words[target.kind]] if target.kind in words else [target.value])


def tiles(measures: Sequence[Measure]) -> Iterator[dict[str, str]]:
    """The quantities that people look for first."""
    found = {row.name: row for row in measures}
    for name in _SHOWN_FIRST:
        row = found.get(name)
        if row is not None and row.after is not None:
            ratio = f"{row.after / row.before:.2f} of {show_amount(row.before, row.unit)}" if row.before else ""
            yield {"name": name, "value": show_amount(row.after, row.unit), "note": ratio}


def measure_row(row: Measure) -> dict[str, str]:
    before, after = row.before, row.after
    ratio = f"{after / before:.3f}" if before and after is not None else ""
    return {
        "name": row.name,
        "before": show_amount(before, row.unit),
        "after": show_amount(after, row.unit),
        "ratio": ratio,
        "note": row.note,
    }


def width_charts(widths: Sequence[Width]) -> list[dict[str, str]]:
    """One chart a kind, of those of which anything was cut."""
    charts = []
    for kind in dict.fromkeys(row.kind for row in widths):
        rows = [row for row in widths if row.kind == kind]
        if any(row.after < row.before for row in rows):
            named = [(row.block or row.group, row.before, row.after) for row in rows]
            charts.append({"kind": kind, "svg": both(functools.partial(draw_bars, named))})
    return charts


def heat_map(report: Report) -> Markup | str:
    """The scores that the first round of pruning saw, one row a group."""
    scores = report.importance
    rows = [(row.kind, row.block or row.group, scores[row.group]) for row in report.widths if row.group in scores]
    return both(functools.partial(draw_heat, rows))


def check_row(check: Check) -> dict[str, object]:
    tokens = check.name.startswith("greedy tokens")
    shown = "" if tokens else f"{check.difference:.1e}"
    allowed = "" if tokens else f"{check.tolerance:.0e}"
    state = check.state or ("ok" if check.passed else "broken")
    words, look = {"ok": ("ok", "good"), "care": ("with care", "care"), "broken": ("broken", "bad")}[state]
    return {**check.model_dump(), "difference": shown, "allowed": allowed, "words": words, "look": look}


def compatibility(report: Report) -> list[dict[str, str]]:
    """What opens the folder, and whether that was tried while it was made."""
    checked = {check.artefact for check in report.parity}
    in_genai = {check.artefact for check in report.parity if check.name == GENAI}
    paths = {file.path for file in report.files}
    rows = []
    if "huggingface" in checked:
        generic = "modeling_graphprune.py" in paths
        how = "with trust_remote_code=True or import graphprune" if generic else "as it is"
        rows.append(("transformers", f"AutoModelForCausalLM, {how}", True))
    for place in sorted(path.split("/")[0] for path in paths if path.endswith("/model.onnx")):
        rows.append(("onnxruntime", f"{place}/", True))
        if f"{place}/genai_config.json" in paths:
            rows.append(("onnxruntime-genai", f"{place}/ (0.15 or newer)", place in in_genai))
    rows += [("llama.cpp", path, "gguf" in checked) for path in sorted(paths) if path.endswith(".gguf")]
    rows += [("mlx-lm", "openelm/", "openelm" in checked)] if "openelm/config.json" in paths else []
    rows += [("vLLM, SGLang", "decilm/", False)] if "decilm/config.json" in paths else []
    said = {True: "loaded and compared", False: "written for it; not run here"}
    return [{"runtime": runtime, "what": what, "checked": said[tried]} for runtime, what, tried in rows]


def facts(report: Report) -> list[tuple[str, str]]:
    """Where it came from and with what."""
    source, history = report.source, [step.spec for step in report.history]
    rows = [("source", source.id), *([("revision", source.revision)] if source.revision else [])]
    rows += [(f"pass {number}", spec) for number, spec in enumerate(history, 1)]
    if report.text:
        rows.append(("text", f"{report.text.source}; held out: {report.text.held_out}"))
    return [*rows, *((name, version) for name, version in report.versions.items()), ("seed", str(report.seed))]
