"""onnxruntime-genai opens every ONNX folder and makes the tokens that our runner makes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphprune.artefacts.checks import genai_check
from graphprune.artefacts.checks.genai_check import require_known
from graphprune.backends.onnx.backend import Onnx
from graphprune.backends.ort.backend import Ort
from graphprune.backends.runtime.runner import load
from graphprune.errors import ParityError
from graphprune.evaluation.bench_worker import open_genai
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.pruning.selection import select
from graphprune.rewriting.apply import apply
from tests.support.families import analysis, graph

genai: Any = pytest.importorskip("onnxruntime_genai")
pytestmark = pytest.mark.xdist_group("llama")
PROMPT, COUNT = [5, 9, 11, 7, 3], 40
BACKENDS = (Onnx(), Ort(), Ort("fp16"), Ort("int8"), Ort("int4", block=16, embeddings=True))


def generate(folder: Path, prompt: list[int], count: int) -> list[int]:
    """Greedy tokens by genai, with nothing but the folder."""
    model: Any = genai.Model(str(folder))
    options = genai.GeneratorParams(model)
    options.set_search_options(max_length=len(prompt) + count, min_length=len(prompt) + count, do_sample=False)
    generator = genai.Generator(model, options)
    generator.append_tokens(np.array([prompt], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(prompt) :]


def cut_layers() -> Graph:
    """Layers of different shape: one key-value head and fewer channels in the first, all in the second."""
    groups = analysis("llama").groups
    chosen = [g for g in groups.prunable(frozenset({"attention", "mlp"})) if g.block and ".0." in g.block]
    scores = {g.id: torch.arange(g.units, dtype=torch.float64) for g in chosen}
    return apply(graph("llama"), select(groups, {g.id: max(1, g.units // 2) for g in chosen}, scores))


def drop_attention() -> Graph:
    """The first layer without its attention, so that the cache has one layer fewer."""
    branch = next(b.id for b in analysis("llama").groups.branches if "attn" in b.id)
    return apply(graph("llama"), Plan(dropped=(branch,)))


@pytest.mark.parametrize("make", [cut_layers, drop_attention])
def test_genai_and_our_runner_make_the_same_tokens(make: Any, tmp_path: Path) -> None:
    made = make()
    for backend in BACKENDS:
        backend.export(made, tmp_path)  # type: ignore[attr-defined]
        folder = tmp_path / backend.place  # type: ignore[attr-defined]
        ours = load(folder, "cpu", threads=1).generate([PROMPT], COUNT)[0]
        assert len(ours) == COUNT
        assert generate(folder, PROMPT, COUNT) == ours, folder.name


def test_the_configuration_names_every_input_of_the_model(tmp_path: Path) -> None:
    Ort().export(cut_layers(), tmp_path)
    config = json.loads((tmp_path / "onnx-ort" / "genai_config.json").read_text(encoding="utf-8"))
    decoder = config["model"]["decoder"]
    names = {name % layer if "%d" in name else name for name in decoder["inputs"].values() for layer in (0, 1)}
    assert names == set(load(tmp_path / "onnx-ort", "cpu").inputs)
    assert decoder["num_key_value_heads"] == 2
    assert decoder["num_hidden_layers"] == 2


def test_keys_and_values_of_different_size_have_no_configuration(tmp_path: Path) -> None:
    """genai has one size for both, so it would be handed a model that it cannot run."""
    values = next(g for g in analysis("llama").groups.prunable() if g.kind == "head_dim" and "v_proj" in g.id)
    made = apply(graph("llama"), Plan({values.id: tuple(range(values.units // 2))}))
    Ort().export(made, tmp_path)
    assert not (tmp_path / "onnx-ort" / "genai_config.json").exists()
    assert len(load(tmp_path / "onnx-ort", "cpu").generate([PROMPT], COUNT)[0]) == COUNT


NAME = "genai_config.json"
LIBRARY = {"custom_ops_library": "evil.so"}
HARM: dict[str, Any] = {
    "a library of operators": lambda config: config["model"]["decoder"]["session_options"].update(LIBRARY),
    "a library of a provider": lambda config: config["model"]["decoder"]["session_options"].update(
        provider_options=[{"evil": {"library_path": "evil.so"}}]
    ),
    "session configuration": lambda config: config["model"]["decoder"]["session_options"].update(
        config_entries={"session.load_model_format": "ORT"}
    ),
    "another part of a model": lambda config: config["model"].update(vision={"filename": "evil.onnx"}),
    "another file": lambda config: config["model"]["decoder"].update(filename="../evil.onnx"),
    "a pipeline": lambda config: config["model"]["decoder"].update(pipeline=[{"model": {"filename": "evil.onnx"}}]),
    "more at the top": lambda config: config.update(engine=LIBRARY),
    "another type": lambda config: config["search"].update(max_length=LIBRARY),
}


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Onnx().export(graph("llama"), tmp_path / "all")[0].with_name(NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps(found))
    return found


@pytest.mark.parametrize("name", HARM)
def test_a_configuration_that_we_did_not_write_is_not_used(config: dict[str, Any], tmp_path: Path, name: str) -> None:
    require_known(tmp_path)
    HARM[name](config)
    (tmp_path / NAME).write_text(json.dumps(config))
    with pytest.raises(ParityError, match="otherwise than graphprune writes it"):
        require_known(tmp_path)
    with pytest.raises(ParityError):
        genai_check.generate(tmp_path, PROMPT, 2)
    with pytest.raises(ParityError):
        open_genai({"folder": str(tmp_path), "context": 4, "tokens": 2, "threads": 1})


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"model": {}, "model": {}}', "[" * 100_000])
def test_other_text_than_a_configuration_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(ParityError, match=NAME):
        require_known(tmp_path)
