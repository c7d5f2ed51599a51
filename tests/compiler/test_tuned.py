"""SAAP as a recipe, to both faces: the int4 file holds what was tuned, also of a source in half precision."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from graphprune.compiler import compile as compiling
from graphprune.compiler.compile import compile_model
from graphprune.errors import UsageError
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import parse_settings, read_recipe
from tests.support.tiny_source import write_source

pytestmark = [pytest.mark.xdist_group("tuned"), pytest.mark.slow]
INT4 = "ort{precision=int4,block=16}"
QUICK = ("recover.tokens=2k", "recover.rows=4", "recover.lora_block=16", "recover.lr=1e-2", "prune.protect=[0,0]")


def options(source: Path, out: Path, method: str, *backends: str, settings: tuple[str, ...] = ()) -> CompileOptions:
    return CompileOptions(
        str(source),
        "80%",
        out,
        method,
        data=str(source / "text.txt"),
        samples=8,
        length=24,
        backends=("huggingface", *backends),
        settings=settings,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_file_holds_what_was_tuned_and_the_checkpoint_its_values(dtype: torch.dtype, tmp_path: Path) -> None:
    source = write_source(tmp_path)
    narrow(source, dtype)
    result = compile_model(options(source, tmp_path / "out", "saap-tuned", INT4, settings=QUICK))
    assert all(check.passed for check in result.checks)
    model = onnx.load(tmp_path / "out" / "onnx-int4" / "model.onnx")
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = load_file(tmp_path / "out" / "model.safetensors")
    packed = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert packed
    fractions = 0
    for node in packed:
        codes, scale, offset = (tensors[name] for name in node.input[1:4])
        assert offset.dtype == np.float32
        fractions += int((offset != offset.round()).sum())
        codes = np.stack([codes & 15, codes >> 4], -1).reshape(*scale.shape, 16)
        values = ((codes - offset[..., None]) * scale[..., None]).reshape(len(scale), -1)
        stored = weights[node.input[1].removesuffix("_Q4")]
        expected = torch.from_numpy(values[:, : stored.shape[1]]).to(dtype)
        assert torch.equal(stored.to(dtype), expected)
    assert fractions > 0


def narrow(source: Path, dtype: torch.dtype) -> None:
    """Store the weights of a source in this type."""
    path = source / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config.pop("torch_dtype", None)
    (source / "config.json").write_text(json.dumps({**config, "dtype": str(dtype).removeprefix("torch.")}))


def test_a_file_that_cannot_hold_it_is_refused_before_the_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(compiling, "capture_for_work", never)
    source = write_source(tmp_path / "source")
    for backend, said in (
        ("ort{precision=int8}", "in 8 bits what is tuned in 4"),
        ("ort{precision=int4,block=64}", "set recover.lora_block=64"),
    ):
        with pytest.raises(UsageError, match=said):
            compile_model(options(source, tmp_path / "out", "saap-tuned", backend))
    with pytest.raises(UsageError, match=r"recover\.lora_block=24"):
        compile_model(options(source, tmp_path / "out", "saap-tuned", INT4, settings=("recover.lora_block=24",)))


def test_a_recipe_says_what_is_tuned() -> None:
    assert read_recipe("saap").tuned_block == 0
    assert read_recipe("saap-tuned").tuned_block == 32
    after = parse_settings(['after=["recover{lora_block=64}"]'])
    assert read_recipe("saap", after).tuned_block == 64
