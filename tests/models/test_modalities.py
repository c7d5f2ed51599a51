"""Modalities: a text model out of a model of images and text is refused, or asked for, and never silent."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from graphprune.backends.huggingface.backend import HuggingFace
from graphprune.compiler import compile as compile_module
from graphprune.compiler import dry_run as dry_run_module
from graphprune.compiler.compile import compile_model
from graphprune.compiler.request import require_part
from graphprune.errors import ExportError, UsageError
from graphprune.frontend.parts import foresee_part
from graphprune.frontend.source import capture
from graphprune.models.modalities import count_parameters, describe_part, left_out
from graphprune.pipeline.options import CompileOptions
from tests.support import zoo

TEXT: dict[str, Any] = {**zoo.GQA, "head_dim": 8}
VISION: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip


def image_and_text() -> Any:
    torch.manual_seed(0)
    config = transformers.Gemma3Config(
        text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4, image_token_index=10, boi_token_index=11,
        eoi_token_index=12,
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config).eval()


def sound_and_text() -> Any:
    torch.manual_seed(0)
    audio = {
        "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "num_mel_bins": 8,
        "max_source_positions": 20,
    }  # fmt: skip
    text = {key: value for key, value in TEXT.items() if key != "head_dim"}
    config = transformers.Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", **audio}, text_config={"model_type": "qwen2", **text},
        audio_token_index=10,
    )  # fmt: skip
    return transformers.Qwen2AudioForConditionalGeneration(config).eval()


@pytest.mark.parametrize(("make", "kind"), [(image_and_text, "image"), (sound_and_text, "audio")])
def test_the_text_part_alone_is_noted_and_refused_unless_asked_for(make: Any, kind: str) -> None:
    model = make()
    graph = capture(model)
    whole = count_parameters(model)
    assert graph.source.left_out == (kind,)
    assert graph.source.whole == whole > graph.parameter_count()
    (note,) = graph.notes
    assert note == describe_part(type(model).__name__, (kind,), graph.parameter_count(), whole)
    assert f"of {whole:,} parameters" in note
    with pytest.raises(UsageError, match=r"not supported as a whole: .* pass --part text to make that alone smaller"):
        require_part(graph, "whole")
    require_part(graph, "text")


@pytest.mark.parametrize(("make", "kind"), [(image_and_text, "image"), (sound_and_text, "audio")])
def test_the_refusal_comes_before_the_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, kind: str
) -> None:
    model = make()
    model.save_pretrained(tmp_path / "model")
    found = foresee_part(str(tmp_path / "model"))
    assert found == (type(model).__name__, (kind,), count_parameters(model))
    monkeypatch.setattr(compile_module, "capture", None)
    monkeypatch.setattr(dry_run_module, "capture", None)
    for dry_run in (True, False):
        options = CompileOptions(str(tmp_path / "model"), "60%", tmp_path / "out", dry_run=dry_run)
        with pytest.raises(
            UsageError, match=r"text model alone, a part of its [\d,]+ parameters, .* pass --part text"
        ) as caught:
            compile_model(options)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["clip", "llama", "bert"])
def test_a_whole_is_foreseen_as_one(name: str, tmp_path: Path) -> None:
    zoo.build(name).save_pretrained(tmp_path)
    assert foresee_part(str(tmp_path)) is None
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    assert foresee_part(str(tmp_path)) is None


def test_the_text_part_is_a_text_model_and_not_the_whole_class(tmp_path: Path) -> None:
    graph = capture(image_and_text())
    with pytest.raises(ExportError, match="no configuration of Gemma3ForConditionalGeneration fits"):
        HuggingFace(form="stock").export(graph, tmp_path / "stock")
    HuggingFace().export(graph, tmp_path / "auto")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "auto")
    assert model.num_parameters() == graph.parameter_count()


@pytest.mark.parametrize("name", ["clip", "vit", "bert", "llama"])
def test_models_that_are_captured_whole_say_nothing(name: str) -> None:
    graph = capture(zoo.build(name))
    assert graph.source.left_out == ()
    assert graph.notes == ()
    require_part(graph, "whole")


def test_what_is_left_out_is_what_the_class_says_it_takes() -> None:
    class Told(SimpleNamespace):
        input_modalities = ("image", "video", "text")

    model: Any = Told()
    assert left_out(model, ["input_ids"]) == ("image", "video")
    assert left_out(model, ["input_ids", "pixel_values"]) == ()
    nothing: Any = SimpleNamespace()
    assert left_out(nothing, ["input_ids"]) == ()
