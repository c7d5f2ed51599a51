"""report.json: everything about a run as plain data that meets the schema, and the recipe that runs it again."""

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from graphprune.data.calibration import Text
from graphprune.evaluation.measure import Measure
from graphprune.ir.lineage import Step
from graphprune.pipeline.recipes import Change, read_recipe
from graphprune.reporting.report import (
    describe_target,
    list_widths,
    make_report,
    notes_of,
    resolved_recipe,
    summarise_training,
)
from graphprune.reporting.results import Result
from graphprune.reporting.schema import Report
from graphprune.running.comparison import Check
from graphprune.vocabulary.cutting import VocabularyCut
from tests.support.rows import held_out
from tests.support.tiny_work import CHANNELS, CUT, tiny_work

pytestmark = pytest.mark.xdist_group("tiny_llama")
TRAINED = read_recipe("adapt-accel", [Change("stages", 2, "here")])


def metrics(folder: Path, stage: int, held: list[float | None], start: int = 0) -> Path:
    """A file of one line a step, as training writes it."""
    path = folder / f"metrics-{stage}.jsonl"
    rows = [
        {"stage": stage, "step": start + n + 1, "tokens": 48 * (n + 1), "loss": 3 - n / 4, "held_out": value}
        for n, value in enumerate(held)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Path]:
    return metrics(tmp_path, 1, [4.0, None, 3.5]), metrics(tmp_path, 2, [None, None], start=3)


def test_a_trained_stage_is_its_last_step_and_the_first_and_last_held_out_loss(trained: tuple[Path, Path]) -> None:
    assert [stage.model_dump() for stage in summarise_training(trained)] == [
        {"stage": 1, "step": 3, "tokens": 144, "loss": 2.5, "held_out_first": 4.0, "held_out_last": 3.5},
        {"stage": 2, "step": 5, "tokens": 96, "loss": 2.75, "held_out_first": None, "held_out_last": None},
    ]
    assert summarise_training([]) == []


def test_tokens_of_a_cut_that_was_learned_count_with_those_of_the_training_after_it(tmp_path: Path) -> None:
    learned = metrics(tmp_path, 0, [4.0, None, 3.5]).rename(tmp_path / "learned.jsonl")
    (row,) = summarise_training([learned, metrics(tmp_path, 0, [3.0])])
    assert (row.tokens, row.held_out_first, row.held_out_last) == (192, 4.0, 3.0)


def test_stages_in_one_file_are_told_apart(trained: tuple[Path, Path], tmp_path: Path) -> None:
    joined = tmp_path / "all.jsonl"
    joined.write_text("".join(path.read_text() for path in trained))
    assert summarise_training([joined]) == summarise_training(trained)


RESULT = Result(
    None,
    (Measure("parameters", 10, 6), Measure("file", None, 7.0, "bytes")),
    checks=(Check("onnx", "prefill", 1e-6, 1e-4, 1.0, True),),
    notes=("a note",),
    samples=(("before", "once"),),
)


def test_everything_about_a_run_meets_the_schema(trained: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "onnx").mkdir(parents=True)
    (out / "onnx" / "model.onnx").write_bytes(b"123")
    (out / "config.json").write_bytes(b"{}")
    graph = tiny_work().graph.record(Step("prune{}", 3, 10, 6)).remember("importance", {CHANNELS: [1.0, 2.0]})
    cut = VocabularyCut(64, 60, 1000, 0.98, ("vocab.json",))
    text = Text((), held_out(), 1000, None)
    work = tiny_work(graph=graph, recipe=TRAINED, metrics=trained, vocabulary=cut, text=text)
    report = make_report(work, RESULT, out, 12.34)
    written = json.dumps(report.model_dump())
    assert '"before": 10, "after": 6,' in written, "whole numbers are written as such"
    read = Report.model_validate_json(written)
    assert read == report
    assert (read.seconds, read.seed, read.source.id) == (12.3, 3, "tiny")
    assert read.source.files_sha256 == {"config.json": "00ff"}
    assert read.achieved.parameters == graph.parameter_count() < work.source.parameter_count()
    assert [(file.path, file.bytes) for file in read.files] == [("config.json", 2), ("onnx/model.onnx", 3)]
    assert read.files[1].sha256 == hashlib.sha256(b"123").hexdigest()
    assert read.text is not None
    assert read.text.source == "my text.txt"
    assert "every twentieth" in read.text.held_out, "what is trained on is split by rows"
    assert read.vocabulary is not None
    assert read.vocabulary.left_out == ["vocab.json"]
    assert [stage.tokens for stage in read.training] == [144, 96]
    assert (read.method["name"], read.method["stages"]) == ("adapt-accel", 2)
    assert (read.history[0].spec, read.importance) == ("prune{}", {CHANNELS: [1.0, 2.0]})
    assert [measure.before for measure in read.measures] == [10, None]
    assert (read.parity[0].artefact, read.samples[0].text, read.notes) == ("onnx", "once", ["a note"])


def test_a_replayed_plan_has_no_method_no_text_and_no_training(tmp_path: Path) -> None:
    report = make_report(tiny_work(recipe=None), Result(None), tmp_path, 0.0)
    assert report.method == {"name": "plan"}
    assert (report.text, report.vocabulary, report.training, report.files) == (None, None, [], [])


@pytest.mark.parametrize(
    ("changes", "kind", "value"),
    [
        ({}, "params", "60%"),
        ({"target_params": None, "target_size": "onnx:1MB"}, "size", "onnx:1MB"),
        ({"target_params": None, "target_kv_bytes": "50%"}, "kv-bytes", "50%"),
        ({"target_params": None, "target_speed": "2x"}, "speed", "2x"),
        ({"target_params": None, "vocabulary": "60"}, "vocabulary", "60"),
        ({"vocabulary": "60"}, "params", "60%"),
    ],
)
def test_a_target_is_named_without_its_dashes(changes: dict[str, Any], kind: str, value: str) -> None:
    measured = {"rounding": {"step": 8}}
    found = describe_target(tiny_work(changes, measured=measured))
    assert found.model_dump() == {"kind": kind, "value": value, "measured": measured}


def test_the_user_is_told_how_little_was_trained(trained: tuple[Path, Path]) -> None:
    graph = tiny_work().graph.note("one")
    assert notes_of(tiny_work(graph=graph)) == ("one",)
    first, said = notes_of(tiny_work(graph=graph, metrics=trained))
    ratio = 240 / graph.parameter_count()
    assert first == "one"
    assert said == f"trained on 240 tokens, {ratio:.2g} a parameter; --train-tokens and more --data go further"


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({}, "--target-params 60% --data 'my text.txt'"),
        ({"data": "/home/me/b.txt#train"}, "--target-params 60% --data 'b.txt#train'"),
        (
            {"held_out": "b.txt", "vocabulary": "60"},
            "--target-params 60% --vocabulary 60 --data 'my text.txt' --held-out b.txt",
        ),
        ({"target_params": None, "vocabulary": "60"}, "--vocabulary 60 --data 'my text.txt'"),
    ],
)
def test_the_recipe_is_headed_by_the_command_that_runs_it_again(
    changes: dict[str, Any], command: str, tmp_path: Path
) -> None:
    text = resolved_recipe(tiny_work(changes).asked, TRAINED, "tiny")
    head, _, body = text.partition("\n")
    tail = "--seed 3 --method recipe.yaml"
    assert shlex.split(head.removeprefix("# ")) == shlex.split(f"graphprune compile tiny -o OUT {command} {tail}")
    assert yaml.safe_load(body)["name"] == "adapt-accel"
    (tmp_path / "recipe.yaml").write_text(text)
    assert read_recipe(str(tmp_path / "recipe.yaml")) == TRAINED


def test_a_replayed_plan_leaves_no_recipe_to_run() -> None:
    text = resolved_recipe(tiny_work().asked, None, "tiny")
    assert "plan.json beside this file is all there is to it" in text
    assert yaml.safe_load(text) is None


def test_widths_are_those_of_every_group_that_could_be_cut() -> None:
    work = tiny_work()
    widths = {width.group: width for width in list_widths(work.groups, CUT)}
    assert list(widths) == [group.id for group in work.groups.prunable()]
    assert (widths[CHANNELS].before, widths[CHANNELS].after, widths[CHANNELS].kind) == (24, 8, "mlp")
    assert widths[CHANNELS].block == "model.layers.1.mlp"
    others = [width for width in widths.values() if width.group != CHANNELS]
    assert all(width.before == width.after for width in others)
