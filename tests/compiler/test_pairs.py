"""Models of images and texts through `compile`: pairs are looked at, towers are cut apart, both faces are checked."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from graphprune.analysis.analyse import analyze
from graphprune.backends.huggingface.stock_configs import stock_config
from graphprune.compiler.compile import compile_model
from graphprune.errors import UsageError
from graphprune.ir.plan import Plan
from graphprune.pipeline.options import CompileOptions
from graphprune.reporting.schema import Report
from graphprune.rewriting.apply import apply
from tests.support.families import graph as graph_of
from tests.support.tiny_pairs import write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


def options(clip: Path, out: Path, **changes: object) -> CompileOptions:
    asked = {"target_params": "85%", "data": str(clip / "pairs"), "backends": ("huggingface",), **changes}
    return CompileOptions(str(clip), out=out, **asked)  # type: ignore[arg-type]


def test_width_then_depth_goes_the_whole_way_to_both_faces(clip: Path, tmp_path: Path) -> None:
    result = compile_model(options(clip, tmp_path / "out", method="mope-clip", backends=("huggingface", "onnx")))
    assert all(check.passed for check in result.checks)
    report = Report.model_validate_json((tmp_path / "out" / "graphprune" / "report.json").read_text())
    measured = {measure.name: measure.after for measure in report.measures}
    assert {"held-out cosine of image_embeds", "held-out cosine of text_embeds", "held-out recall@1"} <= measured.keys()
    first, second = (step.spec for step in report.history)
    assert "kinds=[mlp,attention]" in first
    assert "kinds=[layers]" in second
    took = [note for note in result.notes if note.startswith("ablation took out")]
    assert took == ["ablation took out 48 modules by themselves: 16 heads and 32 groups of channels"]
    assert result.dropped


def test_the_scope_of_one_tower_leaves_the_other_to_the_bit(clip: Path, tmp_path: Path) -> None:
    compile_model(
        options(clip, tmp_path / "out", scope="vision_model", importance="taylor", prune=("mlp", "attention"))
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (clip, tmp_path / "out"))
    texts = [name for name in before if name.startswith("text_model.") and "position_ids" not in name]
    assert len(texts) > 20
    assert all(torch.equal(before[name], after[name]) for name in texts)
    assert any(before[name].shape != after[name].shape for name in before if name.startswith("vision_model."))


def test_equal_widths_in_each_tower_are_a_stock_checkpoint_of_clip() -> None:
    whole = graph_of("clip")
    widths = {"text_model": 30, "vision_model": 20}
    mlp = [group for group in analyze(whole).prunable() if group.kind == "mlp"]
    small = apply(whole, Plan({group.id: tuple(range(widths[group.id.split(".")[0]])) for group in mlp}))
    config = stock_config(small)
    assert config is not None
    assert (config.text_config.intermediate_size, config.vision_config.intermediate_size) == (30, 20)


def test_without_pairs_the_default_is_magnitude_and_a_method_of_pairs_is_refused(clip: Path, tmp_path: Path) -> None:
    result = compile_model(options(clip, tmp_path / "out", data="stdlib"))
    assert any("ranked by magnitude" in note for note in result.notes)
    with pytest.raises(UsageError, match="looks at pairs of an image and a text"):
        compile_model(options(clip, tmp_path / "other", data="stdlib", method="mope-clip"))
