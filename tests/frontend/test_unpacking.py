"""Packed weights: GGUF files and compressed tensors are taken as what they stand for, or refused in a line."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from graphprune import capture
from graphprune.errors import SourceError
from graphprune.frontend.places import locate, look_at
from graphprune.frontend.unpacking import MAGIC, packed_in, stored_type, unpack
from graphprune.spec import parse_spec
from tests.support.tiny_source import write_source

gguf: Any = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


def pack(source: Path, folder: Path, precision: str) -> Path:
    """The source as a GGUF file, by our own backend."""
    parse_spec("backends", f"gguf{{precision={precision}}}").export(capture(source), folder)
    (file,) = folder.rglob("*.gguf")
    return file


@pytest.mark.parametrize(
    ("precision", "dtype"), [("f16", "float16"), ("bf16", "bfloat16"), ("f32", "float32"), ("q8_0", "float32")]
)
def test_a_file_is_the_model_that_it_was_made_of(source: Path, tmp_path: Path, precision: str, dtype: str) -> None:
    """Every number is what the file says, to the last bit, and the model that holds them is the one that was packed."""
    file = pack(source, tmp_path / precision, precision)
    assert stored_type(file) == dtype
    folder, revision = locate(str(file), True, False)
    assert revision is None
    assert look_at(str(file.parent)) == folder  # unpacked once
    found = load_file(folder / "model.safetensors")
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(file).tensors}
    down = torch.from_numpy(tensors["blk.0.ffn_down.weight"].copy()).to(getattr(torch, dtype))
    assert torch.equal(found["model.layers.0.mlp.down_proj.weight"], down)
    ids = torch.randint(3, 30, (2, 7))
    mine, theirs = (capture(path, dtype=torch.float32) for path in (file, source))
    wanted = whole_logits(theirs, ids)
    torch.testing.assert_close(
        whole_logits(mine, ids),
        wanted,
        rtol=0,
        atol=float(wanted.abs().max()) * (0.05 if precision == "q8_0" else 1e-3),
    )


def whole_logits(graph: Any, ids: torch.Tensor) -> torch.Tensor:
    from graphprune.running.runners import graph_runner

    positions = torch.arange(ids.shape[1]).expand(ids.shape).contiguous()
    with torch.no_grad():
        return graph_runner(graph)(ids, torch.ones_like(ids), positions, None)[0]


def test_what_is_no_model_is_refused_in_a_line(source: Path, tmp_path: Path) -> None:
    file = pack(source, tmp_path / "f16", "f16")
    whole = file.read_bytes()
    for name, data in {
        "other": b"PK\x03\x04" + whole[4:],
        "empty": b"",
        "magic": MAGIC,
        "half": whole[: len(whole) // 2],
        "header": whole[:200],
        "counts": whole[:8] + b"\xff" * 16 + whole[24:],
    }.items():
        damaged = tmp_path / f"{name}.gguf"
        damaged.write_bytes(data)
        with pytest.raises(SourceError) as caught:
            look_at(str(damaged))
        assert str(damaged) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


def test_what_lies_beside_a_file_is_not_taken_along(source: Path, tmp_path: Path) -> None:
    """An adapter there would be loaded by transformers, pickle or not."""
    file = pack(source, tmp_path / "f16", "f16")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "acme/base", "task_type": "CAUSAL_LM"}
    (file.parent / "adapter_config.json").write_text(json.dumps(adapter))
    (file.parent / "adapter_model.bin").write_bytes(b"cos\nsystem\n")
    assert (look_at(str(file)) / "model.safetensors").is_file()


@pytest.mark.parametrize("extra", ["adapter", "kernel"])
def test_compressed_tensors_are_looked_at_before_anything_reads_them(source: Path, tmp_path: Path, extra: str) -> None:
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors"}
    config |= {"attn_implementation": "acme/kernel"} if extra == "kernel" else {}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    if extra == "adapter":
        (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(SourceError, match="adapter beside the model" if extra == "adapter" else "code of the hub"):
        look_at(str(tmp_path))


def test_of_several_files_one_must_be_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.gguf").write_bytes(MAGIC)
    with pytest.raises(SourceError, match=r"2 GGUF files; name one of them: .*a\.gguf"):
        look_at(str(tmp_path))


def test_what_is_not_packed_is_left_alone(source: Path, tmp_path: Path) -> None:
    assert packed_in(source) is None
    assert packed_in(tmp_path / "nothing") is None
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert packed_in(tmp_path) is None


def test_compressed_tensors_without_their_package_say_which(source: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("compressed_tensors"):
        pytest.skip("the package is there")
    folder = tmp_path / "compressed"
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "compressed-tensors"}})
    )
    (folder / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    packed = packed_in(folder)
    assert packed is not None
    assert packed.package == "compressed-tensors"
    with pytest.raises(SourceError, match=r"compressed"):
        unpack(packed)


def test_compressed_tensors_are_the_numbers_that_they_stand_for(source: Path, tmp_path: Path) -> None:
    """In `make test-quantisers`, whose environment has the package."""
    pytest.importorskip("compressed_tensors", reason="the package is in the environment of make test-quantisers")
    import transformers
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config, preset_name_to_scheme

    model: Any = transformers.LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
    scheme = {"all": preset_name_to_scheme("INT8", ["Linear"])}
    config = QuantizationConfig(
        config_groups=scheme, ignore=["lm_head"], quantization_status="frozen", format="int-quantized"
    )
    apply_quantization_config(model, config)
    wanted = {}
    for name, module in model.named_modules():
        if hasattr(module, "weight_scale"):
            scale = module.weight.data.abs().amax(1, keepdim=True) / 127
            module.weight_scale.data = scale
            wanted[f"{name}.weight"] = (module.weight.data / scale).round() * scale
    compressor = ModelCompressor(quantization_config=config)
    compressor.compress_model(model)
    folder = tmp_path / "compressed"
    model.save_pretrained(folder, state_dict=model.state_dict())
    compressor.update_config(str(folder))
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    plain = look_at(str(folder))
    found = load_file(plain / "model.safetensors")
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=0)
    assert "quantization_config" not in json.loads((plain / "config.json").read_text())
    assert (plain / "tokenizer.json").is_file()
    assert capture(str(folder)).parameter_count() == capture(source).parameter_count()
