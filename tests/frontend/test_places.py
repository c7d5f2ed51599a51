"""A look at a model's folder: told at once, in one line, without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from graphprune.errors import GraphpruneError, SourceError
from graphprune.frontend.places import is_generic, look_at
from graphprune.frontend.source import load_source
from tests.support.tiny_language import save_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


def test_a_whole_folder_is_the_answer(folder: Path) -> None:
    assert look_at(str(folder)) == folder
    assert not is_generic(folder)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_names_that_a_wrapper_gave_are_told_at_once(folder: Path, prefix: str) -> None:
    path = folder / "model.safetensors"
    save_file({prefix + name: tensor for name, tensor in load_file(path).items()}, path)
    with pytest.raises(SourceError, match=f"is named with '{prefix}', which a wrapper puts .*save_pretrained"):
        look_at(str(folder))


def test_names_that_another_wrapper_gave_are_told_on_loading(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({f"backbone.inner.{name}": tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    with pytest.raises(SourceError, match=r"a wrapper has put 'backbone\.inner\.' before every name"):
        load_source(folder, True, False)


@pytest.mark.parametrize("stated", [None, "float32", "bfloat16"])
def test_the_stored_type_is_that_of_the_weights(folder: Path, stated: str | None) -> None:
    path = folder / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(config | ({"dtype": stated} if stated else {})))
    model, source = load_source(folder, True, False)
    assert source.dtype == model.dtype == torch.float16
    assert load_source(folder, False, False)[1].dtype == torch.float16
    assert load_source(folder, True, False, torch.float32)[0].dtype == torch.float32


def test_a_padding_token_without_a_row_is_named_with_its_limit(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    rows = config["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": rows}))
    with pytest.raises(SourceError, match=f"pad_token_id in its config.json is {rows}, .* 0 to {rows - 1} alone"):
        load_source(folder, True, False)


def test_a_gguf_file_that_is_none_says_so(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.gguf")
    with pytest.raises(SourceError, match=r"model\.gguf is no GGUF file"):
        look_at(str(folder))


@pytest.mark.parametrize("name", ["", "a" * 5000, "/dev/null/x", "~nobody-at-all"])
def test_names_of_no_folder_are_one_line(name: str) -> None:
    with pytest.raises(GraphpruneError) as caught:
        look_at(name)
    assert len(str(caught.value)) < 300


MISTAKES = """
import sys
from graphprune.cli.main import run
model, out = sys.argv[1:]
lines = [
    ["compile", model, "-o", out, "--target-params", "60%", "--data", "nothing.txt"],
    ["compile", model, "-o", out, "--target-params", "60%x"],
    ["compile", model, "-o", out, "--target-params", "60%", "--method", "taylr"],
    ["compile", model, "-o", out, "--target-params", "60%", "--importance", "taylr"],
    ["compile", model, "-o", out, "--target-params", "60%", "--backends", "onxn"],
    *(["compile", model, "-o", out, "--target-params", "60%", *mistake] for mistake in (
        ["--importance", "taylor{foo=1}"], ["--importance", "taylor{order=third}"], ["--importance", "obs{rounds=0}"],
        ["--allocation", "adaptive{amplitude=2}"], ["--compensation", "bias{missing=3}"], ["--effort", "quick"],
        ["--set", "recover.lr=x"], ["--set", "recover.nonsense=1"], ["--set", "before=['drop-blocks{count=x}']"],
        ["--set", "after=['prune{importance=taylor{foo=1}}']"], ["--backends", "ort{precision=int3}"],
    )),
    ["compile", model, "-o", ".", "--target-params", "60%"],
    ["compile", "nowhere", "-o", out, "--target-params", "60%"],
    ["apply", "nowhere.json", model, "-o", out],
    ["inspect", "nowhere"], ["eval", "nowhere"], ["verify", "nowhere"], ["generate", "nowhere", "x"],
    ["bench", "nowhere"],
    ["eval", model, "--data", "nothing.txt"], ["generate", model, "x"], ["verify", model],
]
codes = [run(line) for line in lines]
assert all(codes), codes
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""


def test_mistakes_are_told_before_torch_is_imported(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MISTAKES, str(folder), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("error: ") == len(done.stderr.splitlines()) == 27
    assert not (tmp_path / "out").exists()
