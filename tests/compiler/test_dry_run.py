"""The dry run: from a configuration alone, the cut shared out evenly, and nothing that would have to be measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune.analysis.analyse import analyze
from graphprune.artefacts.export import load_backends
from graphprune.compiler.dry_run import Equal, dry_run, weight_measure
from graphprune.errors import UsageError
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.resolution import resolve_recipe
from graphprune.progress import no_progress
from graphprune.pruning.interfaces import view
from graphprune.reporting.results import Result
from tests.support.tiny_llama import CONFIG, tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration and nothing else, of weights that would be stored in bf16."""
    path = tmp_path_factory.mktemp("dry") / "model"
    config = type(CONFIG)(**{**CONFIG.to_dict(), "dtype": "bfloat16", "architectures": ["LlamaForCausalLM"]})
    config.save_pretrained(path)
    return path


def run(folder: Path, **changes: Any) -> Result:
    plain = CompileOptions(str(folder), "75%", dry_run=True, data="no such text", prune=("mlp", "attention"))
    options = replace(plain, **changes)
    return dry_run(options, resolve_recipe(options), load_backends(("onnx",)), no_progress)


@pytest.fixture(scope="module")
def result(folder: Path) -> Result:
    return run(folder)


def test_the_cut_is_shared_out_evenly_and_reaches_the_size(result: Result) -> None:
    assert (result.out, result.checks, result.dropped) == (None, (), ())
    size = next(measure for measure in result.measures if measure.name == "parameters")
    whole = tiny_graph().parameter_count()
    assert size.before == whole
    assert size.after is not None
    assert 0.75 * whole - 32 * 12 < size.after <= 0.75 * whole, "within the largest unit, a group of heads"
    for kind in ("mlp", "attention"):
        widths = [width for width in result.widths if width.kind == kind]
        assert len(widths) == 2
        assert all(width.after < width.before for width in widths)
        assert abs(widths[0].after - widths[1].after) <= 1
    assert "a dry run shares the cut out evenly" in result.notes[-1]


def test_bytes_are_of_the_type_that_the_weights_are_stored_in(result: Result) -> None:
    measures = {measure.name: measure for measure in result.measures}
    weights, count = measures["weights"], measures["parameters"]
    assert count.after is not None
    assert (weights.before, weights.after, weights.unit) == (
        2 * tiny_graph().parameter_count(),
        2 * count.after,
        "bytes",
    )
    groups = analyze(tiny_graph())
    (plain,) = weight_measure(groups, groups, None)
    assert plain.before == plain.after == 4 * tiny_graph().parameter_count()


def test_tokens_are_cut_without_a_text_and_the_rest_meets_the_target_in_rounded_widths(folder: Path) -> None:
    result = run(folder, vocabulary="50", round_to=4, prune=("mlp",))
    changed = [(width.kind, width.before, width.after) for width in result.widths if width.before != width.after]
    assert [row for row in changed if row[0] == "vocabulary"] == [("vocabulary", 64, 48)], "rounded as well"
    channels = [after for kind, _, after in changed if kind == "mlp"]
    assert len(channels) == 2
    assert all(after % 4 == 0 for after in channels)
    size = next(measure for measure in result.measures if measure.name == "parameters")
    assert size.after is not None
    assert size.after <= 0.75 * tiny_graph().parameter_count()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prune": ("mlp", "blocks")}, "--dry-run cannot choose blocks, which are measured on text"),
        ({"target_params": None, "target_speed": "2x"}, "--dry-run measures nothing; give another target"),
        ({"round_to": "auto"}, "--dry-run measures nothing; .* and a number to round to"),
    ],
)
def test_what_would_have_to_be_measured_is_refused_before_anything_is_read(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "none", **changes)


def test_no_unit_is_better_than_another() -> None:
    groups = analyze(tiny_graph()).prunable()
    scores = Equal().score(view(tiny_graph(), groups))
    assert list(scores) == [group.id for group in groups]
    assert all(torch.equal(scores[group.id], torch.ones(group.units)) for group in groups)
