"""Configurations as plain data: what no model has is refused before anything is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from graphprune.errors import SourceError
from graphprune.frontend.checks import Entry
from graphprune.frontend.config_checks import check_config, check_widths, quantisation

GOOD: dict[str, Any] = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8}


def written(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(GOOD | changes))
    return folder


@pytest.mark.parametrize(
    "changes", [{}, {"architectures": None}, {"architectures": []}, {"time_step_limit": [0.0, float("inf")]}, {"n": -1}]
)
def test_what_models_have_passes(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert check_config(written(tmp_path, **changes)) == GOOD | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": "Llama"}, "is no list of names of classes"),
        ({"architectures": [3]}, "is no list of names of classes"),
        ({"architectures": {"a": 1}}, "is no list of names of classes"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers in .* is 1,000,000,000, and no model has so many"),
        ({"text_config": {"n_layer": 10**6}}, r"text_config\.n_layer in .* is 1,000,000"),
        ({"encoder_layers": 99999}, "and no model has so many"),
        ({"hidden_size": 10**30}, r"is 1\.00e\+30, and nothing is so large"),
        ({"hidden_size": 10**4000}, "is a number of 13,288 bits, and nothing is so large"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps in .* is inf, which is no number"),
        ({"rope": {"theta": float("nan")}}, r"rope\.theta in .* is nan, which is no number"),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4}},
            r"are quantised \(awq\); pass the full-precision",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, r"are quantised \(gptq\)"),
        ({"quantization_config": {"load_in_4bit": True}}, r"are quantised \(4bit\)"),
        ({"text_config": {"quantization_config": {"quant_method": "bitsandbytes"}}}, r"quantised \(bitsandbytes\)"),
    ],
)
def test_what_none_has_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        check_config(written(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_formats_that_are_turned_back_exactly_pass(tmp_path: Path) -> None:
    written(tmp_path, quantization_config={"quant_method": "fp8"})
    assert quantisation(check_config(tmp_path)) == "fp8"


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"peft_type": "LORA", "base_model_name_or_path": "acme/base"}, "is a LoRA adapter of acme/base, not a model"),
        ({"peft_type": "IA3"}, "is a IA3 adapter of another model"),
    ],
)
def test_an_adapter_names_its_model(tmp_path: Path, adapter: dict[str, Any], said: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(SourceError, match=f"{said}.*merge it first"):
        check_config(tmp_path)


def test_a_width_above_all_that_the_weights_hold_is_refused(tmp_path: Path) -> None:
    entries = {"w": Entry("F32", (8, 4), 128, 128), "q": Entry("I32", (2,), 136, 8)}
    check_widths(tmp_path, {"hidden_size": 48, "max_position_embeddings": 10**7}, entries)
    with pytest.raises(SourceError, match=r"vocab_size in .* is 1,000,000, and its weights hold 48 numbers"):
        check_widths(tmp_path, {"vocab_size": 10**6}, entries)
