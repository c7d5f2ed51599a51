"""report.html: one file without scripts, made from plain data, safe whatever the data hold."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from graphprune.artefacts.checks.genai_check import NAME as GENAI
from graphprune.reporting.charts import NARROW, WIDE, Frame, both, draw_bars, draw_curves, draw_heat, position
from graphprune.reporting.page import compatibility, report_page
from graphprune.reporting.schema import Report, json_schema
from graphprune.training.metrics import Line

REPORT: dict[str, Any] = {
    "schema_version": 1,
    "source": {"id": "/models/tiny", "revision": None, "files_sha256": {}},
    "target": {"kind": "params", "value": "60%", "measured": {}},
    "achieved": {"parameters": 600},
    "training": [],
    "vocabulary": None,
    "statistics": "survivors",
    "method": {"name": "adapt-pruner"},
    "seed": 3,
    "seconds": 12.4,
    "measures": [
        {"name": "parameters", "before": 1000.0, "after": 600.0, "unit": ""},
        {"name": "ONNX model", "before": None, "after": 3 * 2**20, "unit": "bytes"},
    ],
    "widths": [
        {"group": "a:0", "kind": "mlp", "block": "layers.0.mlp", "before": 8, "after": 5},
        {"group": "b:0", "kind": "mlp", "block": "layers.1.mlp", "before": 8, "after": 8},
        {"group": "v:0", "kind": "vocabulary", "block": None, "before": 61, "after": 61},
    ],
    "dropped": [],
    "importance": {"a:0": [1.0, 2.0, 3.0, 4.0], "b:0": [5.0, 6.0, 7.0, 8.0]},
    "notes": [],
    "samples": [{"name": "before", "text": "Once <b>upon</b>"}, {"name": "after", "text": "a & b"}],
    "parity": [
        {
            "artefact": "huggingface",
            "name": "prefill",
            "difference": 1e-7,
            "tolerance": 1e-4,
            "scale": 1.0,
            "passed": True,
            "detail": "",
        },
        {
            "artefact": "onnx",
            "name": "greedy tokens",
            "difference": 9.0,
            "tolerance": 0.0,
            "scale": 1.0,
            "passed": False,
            "detail": "2 of 64",
        },
    ],
    "files": [
        {"path": path, "bytes": 1, "sha256": "00"}
        for path in ("onnx/model.onnx", "onnx/genai_config.json", "modeling_graphprune.py")
    ],
    "history": [{"spec": "prune{target='600'}", "seed": 0, "parameters_before": 1000, "parameters_after": 600}],
    "text": {"source": "stdlib", "held_out": "a split"},
    "versions": {"torch": "2.13.0"},
}
METRICS: list[Line] = [
    {
        "step": step,
        "stage": 1 + step // 5,
        "tokens": 8 * step,
        "loss": 3 - step / 10,
        "ce": 3 - step / 10,
        "kd": None,
        "lr": 1e-4,
        "grad_norm": 1.0,
        "tokens_per_s": 100.0,
        "held_out": 3.0 if step % 4 == 0 else None,
    }
    for step in range(1, 11)
]


def made(**changes: Any) -> Report:
    """The report with some of its parts changed."""
    return Report.model_validate({**REPORT, **changes})


def test_the_page_is_one_file_that_fetches_and_runs_nothing() -> None:
    page = report_page(made(), METRICS)
    assert not re.search(r"<script|<link|https?://|@import|url\(| on\w+=", page)
    assert page.count("<svg") == 6  # widths of one kind, importance, training: for wide windows and for narrow ones
    assert "vocabulary" not in page  # nothing of it was cut
    assert "tiny, compiled to 60%<" in page
    faster = report_page(made(target={"kind": "speed", "value": "2x", "measured": {}}), METRICS)
    assert "tiny, compiled to 2x the speed" in faster
    assert '<td class="bad">broken</td>' in page


VERDICT = {"standing": "broken", "reason": "why", "before": 1.0, "after": 3.0, "trigrams": 2.0, "guess": 4.0}


def test_the_verdict_stands_on_top_and_reports_of_before_have_none() -> None:
    page = report_page(made(verdict=VERDICT))
    assert page.index('<b class="bad">broken</b> why') < page.index("Before and after")
    assert 'class="verdict"' not in report_page(made())


def test_a_check_has_one_of_three_states_and_says_what_to_do() -> None:
    check = {**REPORT["parity"][0], "state": "care", "advice": "take more bits"}
    page = report_page(made(parity=[check]))
    assert '<span class="care">take more bits</span>' in page
    assert '<td class="care">with care</td>' in page


def test_a_speed_that_is_not_told_has_its_reason_in_the_table() -> None:
    row = {**REPORT["measures"][0], "before": None, "after": None, "runs": 5, "spread": 0.4, "note": "40% apart"}
    assert "40% apart" in report_page(made(measures=[row]))


def test_what_comes_from_outside_is_escaped() -> None:
    evil = '<script>alert("x")</script>'
    widths = [{**REPORT["widths"][0], "block": evil}]
    source = {"id": evil, "revision": evil, "files_sha256": {}}
    page = report_page(made(notes=[evil], widths=widths, source=source), METRICS)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4
    assert "Once &lt;b&gt;upon" in page


def test_questions_to_a_language_model_are_shown_where_some_were_asked() -> None:
    asked = [{"question": "loss 1.2: [<b>", "answer": "[0.9, 0.6]"}, {"question": "again", "answer": ""}]
    text = report_page(made(asked=asked))
    assert "<details><summary>[0.9, 0.6]</summary><pre>loss 1.2: [&lt;b&gt;</pre></details>" in text
    assert "<summary>no answer</summary>" in text
    assert "Questions to a language model" not in report_page(made())


def test_without_training_or_scores_there_is_no_empty_chart() -> None:
    page = report_page(made(importance={}, samples=[]), [])
    assert page.count("<svg") == 2
    assert all(title not in page for title in ("Training", "Importance", "The same prompt"))


def test_what_loads_it_says_whether_that_was_tried() -> None:
    rows = compatibility(made())
    assert [(row["runtime"], row["checked"]) for row in rows] == [
        ("transformers", "loaded and compared"),
        ("onnxruntime", "loaded and compared"),
        ("onnxruntime-genai", "written for it; not run here"),
    ]
    assert "trust_remote_code" in rows[0]["what"]


def test_other_runtimes_are_listed_with_what_was_tried() -> None:
    check = {**REPORT["parity"][1], "name": GENAI}
    files = [*REPORT["files"], {"path": "gguf/model-f16.gguf", "bytes": 1, "sha256": "00"}]
    rows = {row["runtime"]: row for row in compatibility(made(parity=[check], files=files))}
    assert rows["onnxruntime-genai"]["checked"] == "loaded and compared"
    assert rows["llama.cpp"] == {
        "runtime": "llama.cpp",
        "what": "gguf/model-f16.gguf",
        "checked": "written for it; not run here",
    }
    files += [{"path": f"{name}/config.json", "bytes": 1, "sha256": "00"} for name in ("openelm", "decilm")]
    check = {**REPORT["parity"][1], "artefact": "openelm"}
    rows = {row["runtime"]: row for row in compatibility(made(parity=[check], files=files))}
    assert rows["mlx-lm"]["checked"] == "loaded and compared"
    assert rows["vLLM, SGLang"]["checked"] == "written for it; not run here"


def test_the_published_schema_is_the_one_that_reports_meet() -> None:
    path = Path(__file__).parent.parent.parent / "docs" / "report.schema.json"
    remedy = "python -m graphprune.reporting.schema > docs/report.schema.json"
    assert path.read_text(encoding="utf-8") == json_schema(), remedy


LETTER = 6.2  # the width of a letter of 11 pixels, in a line of them


@pytest.mark.parametrize("frame", [WIDE, NARROW], ids=["wide", "narrow"])
def test_nothing_of_a_chart_is_cut_off(frame: Frame) -> None:
    name, large = "model.decoder.layers.117.self_attention.dense_4h_to_h", 131_072
    charts = [
        draw_bars([(name, large, large), (name, large, 1)], frame),
        draw_heat([("mlp", name, [1.0] * 48)], frame),
        draw_curves([*METRICS, {**METRICS[-1], "stage": 9, "step": 11}], frame),
    ]
    for chart in charts:
        found = ElementTree.fromstring(chart)
        assert found.attrib["viewBox"].split()[2] == str(frame.width)
        for box in found.iter("rect"):
            assert 0 <= float(box.attrib["x"]) + float(box.attrib["width"]) <= frame.width + 1
        for text in found.iter("text"):
            length, x = LETTER * len(text.text or ""), float(text.attrib["x"])
            left = x - length if text.attrib["text-anchor"] == "end" else x
            assert left >= -1, text.text
            assert left + length <= frame.width + 1, text.text


def test_a_chart_is_drawn_for_wide_windows_and_for_narrow_ones() -> None:
    page = both(lambda frame: draw_bars([("a", 2, 1)], frame))
    assert (page.count('class="wide"'), page.count('class="narrow"')) == (1, 1)
    assert both(lambda frame: "") == ""
    assert "svg.wide { display: none }" in report_page(made())


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    chart = ElementTree.fromstring(draw_bars([("one", 100, 25), ("two", 50, 50)]))
    widths = [float(box.attrib["width"]) for box in chart.iter("rect")]
    assert widths[1] == pytest.approx(widths[0] / 4, abs=0.1)
    assert widths[2] == widths[3] == pytest.approx(widths[0] / 2, abs=0.1)


def test_the_heat_of_a_score_is_its_rank_within_its_kind() -> None:
    chart = ElementTree.fromstring(
        draw_heat([("mlp", "a", [1.0, 3.0]), ("mlp", "b", [2.0, 9.0]), ("heads", "c", [7.0])])
    )
    shades = [float(box.attrib["fill-opacity"]) for box in chart.iter("rect")]
    assert shades == [0.06, 0.69, 0.37, 1.0, 0.06]
    assert position([1.0, 1.0, 2.0], 1.0) == 0.0


def test_curves_go_down_where_the_loss_does_and_mark_the_cuts() -> None:
    chart = ElementTree.fromstring(draw_curves(METRICS))
    lines = [line.attrib["points"].split() for line in chart.iter("polyline")]
    assert [len(points) for points in lines] == [10, 2]
    heights = [float(point.split(",")[1]) for point in lines[0]]
    assert heights == sorted(heights)  # y grows downwards
    assert [entry.text for entry in chart.iter("text") if str(entry.text).startswith("cut")] == ["cut 2", "cut 3"]
    assert draw_curves(METRICS[:1]) == ""
