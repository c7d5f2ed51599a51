"""The onnxruntime runner: shapes from the session, batched generation with the cache, one-line errors."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from graphprune.backends.onnx.backend import Onnx
from graphprune.backends.runtime.runner import OnnxModel, load, pad_left
from graphprune.errors import GraphpruneError, UsageError
from graphprune.running.sampling import Sampling
from tests.support.tiny_llama import CONFIG, tiny_graph

PROMPTS = [[5, 9, 11, 7, 3], [8, 2], [40, 41, 42]]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runtime")
    Onnx().export(tiny_graph(), path)
    return path


@pytest.fixture(scope="session")
def model(folder: Path) -> OnnxModel:
    return load(folder, "cpu", threads=1)


def greedy_without_cache(prompt: list[int], count: int) -> list[int]:
    """Greedy tokens from the graph, every step a fresh run over the whole text."""
    text = list(prompt)
    past = [torch.zeros(1, CONFIG.num_key_value_heads, 0, CONFIG.head_dim)] * 4
    for _ in range(count):
        ids = torch.tensor([text])
        with torch.no_grad():
            logits = tiny_graph()(ids, torch.ones_like(ids), torch.arange(len(text))[None], *past)[0]
        text.append(int(logits[0, -1].argmax()))
    return text[len(prompt) :]


def test_shapes_come_from_the_session(model: OnnxModel) -> None:
    assert [cache.name for cache in model.caches] == [n for n in tiny_graph().inputs if n.startswith("past")]
    assert {(c.shape, c.dtype) for c in model.caches} == {((None, 4, None, 4), np.float32)}
    assert model.empty_past(3)[0].shape == (3, 4, 0, 4)
    assert model.provider == "CPUExecutionProvider"


def test_sixteen_greedy_tokens_of_a_padded_batch_equal_the_graph(model: OnnxModel) -> None:
    assert model.generate(PROMPTS, 16) == [greedy_without_cache(prompt, 16) for prompt in PROMPTS]


def test_the_cache_of_a_run_feeds_the_next(model: OnnxModel) -> None:
    ids = np.array([PROMPTS[0]])
    whole, _ = model.run(ids, np.ones_like(ids), np.arange(5)[None])
    _, past = model.run(ids[:, :3], np.ones((1, 3), np.int64), np.arange(3)[None])
    rest, present = model.run(ids[:, 3:], np.ones((1, 5), np.int64), np.arange(3, 5)[None], past)
    np.testing.assert_allclose(rest, whole[:, 3:], atol=1e-5)
    assert [array.shape for array in present] == [(1, 4, 5, 4)] * 4


def test_generation_ends_before_the_first_stop_token_of_each_prompt(model: OnnxModel) -> None:
    free = model.generate(PROMPTS, 12)
    stop = free[0][4]
    expected = [list(itertools.takewhile(lambda token: token != stop, row)) for row in free]
    assert model.generate(PROMPTS, 12, stop=[stop]) == expected
    assert list(model.stream(PROMPTS[0], 12, stop=[stop])) == expected[0]
    assert model.generate(PROMPTS, 0) == [[], [], []]


def test_sampling_repeats_with_its_seed_and_differs_without(model: OnnxModel) -> None:
    warm = [model.generate(PROMPTS, 12, sampling=Sampling(2.0, seed=seed)) for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]
    assert model.generate(PROMPTS, 12, sampling=Sampling(2.0, top_k=1)) == model.generate(PROMPTS, 12)


def test_sampling_draws_from_the_softmax_of_the_best() -> None:
    logits = np.log(np.array([[0.1, 0.2, 0.3, 0.4]])).repeat(20_000, axis=0)
    random = np.random.default_rng(0)
    drawn = np.bincount(Sampling(1.0).choose(logits, random), minlength=4) / 20_000
    np.testing.assert_allclose(drawn, [0.1, 0.2, 0.3, 0.4], atol=0.02)
    best = np.bincount(Sampling(1.0, top_k=2).choose(logits, random), minlength=4) / 20_000
    np.testing.assert_allclose(best, [0, 0, 3 / 7, 4 / 7], atol=0.02)
    cold = np.bincount(Sampling(0.5).choose(logits, random), minlength=4) / 20_000
    np.testing.assert_allclose(cold, np.array([1, 4, 9, 16]) / 30, atol=0.02)


def test_padding_is_on_the_left() -> None:
    tokens, mask = pad_left([[1, 2, 3], [4]])
    assert tokens.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("prompts", [[], [[1], []]])
def test_an_empty_prompt_is_refused(model: OnnxModel, prompts: list[list[int]]) -> None:
    with pytest.raises(UsageError, match="at least one token"):
        model.generate(prompts, 3)


def test_speed_is_measured_for_prefill_and_decoding(model: OnnxModel) -> None:
    prefill, decode = model.tokens_per_second(prompt_length=8, new_tokens=4)
    assert prefill.value > 0
    assert decode.value > 0
    assert prefill.runs == decode.runs > 1
    with pytest.raises(UsageError, match="at least one new token"):
        model.tokens_per_second(8, 0)


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder / "onnx", target / "onnx"))


def message(folder: Path, provider: str = "cpu") -> str:
    """The one line with which opening the folder fails."""
    with pytest.raises(GraphpruneError) as caught:
        load(folder, provider)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_model_is_named_with_the_place_it_should_be(tmp_path: Path) -> None:
    assert f"no ONNX model in {tmp_path}" in message(tmp_path)


def test_the_inner_folder_opens_too(folder: Path) -> None:
    assert load(folder / "onnx", "cpu").path == folder / "onnx" / "model.onnx"


def test_damaged_files_are_named(folder: Path, tmp_path: Path) -> None:
    data = copy_of(folder, tmp_path) / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1000])
    assert "model.onnx.data is damaged" in message(tmp_path)
    data.unlink()
    assert "model.onnx.data is missing" in message(tmp_path)
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"not a model")
    assert "cannot open" in message(tmp_path)


def test_a_wrong_input_is_one_line(model: OnnxModel) -> None:
    with pytest.raises(GraphpruneError, match="cannot run") as caught:
        model.infer({"input_ids": np.zeros((1, 2), np.float32)})
    assert "\n" not in str(caught.value)


def test_an_unknown_provider_is_refused(folder: Path) -> None:
    assert "unknown provider tpu" in message(folder, "tpu")


@pytest.mark.parametrize("kind", ["path", "link", "attribute"])
def test_data_outside_the_folder_is_not_read(folder: Path, tmp_path: Path, kind: str) -> None:
    """Neither of an initialiser, nor of a constant within a graph, and not by a link either."""
    import onnx

    place = tmp_path / "onnx"
    shutil.copytree(folder / "onnx", place)
    (tmp_path / "secret").write_bytes((place / "model.onnx.data").read_bytes())
    if kind == "link":
        (place / "model.onnx.data").unlink()
        (place / "model.onnx.data").symlink_to(tmp_path / "secret")
    else:
        model = onnx.load(place / "model.onnx", load_external_data=False)
        tensor = next(each for each in model.graph.initializer if each.external_data)
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../secret"
        if kind == "attribute":
            node = model.graph.node.add(op_type="Constant", output=["unused"])
            node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
            model.graph.initializer.remove(tensor)
        onnx.save(model, place / "model.onnx")
    with pytest.raises(GraphpruneError, match="keeps its weights outside its folder"):
        load(place, "cpu")
