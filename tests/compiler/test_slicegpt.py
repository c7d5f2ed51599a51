"""SliceGPT the whole way on layer norms and a tied head: both faces, and the plan makes the same structure again."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from graphprune.compiler.compile import apply_plan, compile_model
from graphprune.ir.plan import read_plan
from graphprune.pipeline.options import ApplyOptions, CompileOptions
from tests.support.tiny_source import write_source

pytestmark = pytest.mark.xdist_group("compile")


def write_gpt2(folder: Path) -> Path:
    """The tiny source's tokenizer and text with a GPT-2 of two layers, whose norms are not neutral."""
    write_source(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    model: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=300, **sizes, **ends))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def test_layer_norms_and_a_tied_head_reach_both_faces(tmp_path: Path) -> None:
    source, out, again = write_gpt2(tmp_path / "source"), tmp_path / "out", tmp_path / "again"
    data = str(source / "text.txt")
    result = compile_model(
        CompileOptions(str(source), "85%", out, data=data, samples=8, length=24, method="slicegpt", vocabulary="290")
    )
    assert {check.artefact for check in result.checks} == {"graph", "huggingface", "onnx"}
    assert all(check.passed for check in result.checks)
    assert any(check.name == "edits leave the source as it is" for check in result.checks)
    plan = read_plan(out / "graphprune" / "plan.json")
    assert {edit.kind for edit in plan.edits} == {"untie", "fold-norm", "center", "stream-map"}
    assert any(width.kind == "residual" and width.after < width.before for width in result.widths)
    applied = apply_plan(ApplyOptions(str(source), out / "graphprune" / "plan.json", again))
    sizes = [next(m for m in found.measures if m.name == "parameters").after for found in (result, applied)]
    assert sizes[0] == sizes[1]
    assert all(check.passed for check in applied.checks)
