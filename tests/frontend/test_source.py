import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from graphprune.errors import SourceError, UsageError
from graphprune.frontend.places import locate
from graphprune.frontend.source import capture, load_source, with_whole_attention

CONFIG: dict[str, Any] = {
    "vocab_size": 29,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "model"
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_a_whole_folder_loads_with_its_hashes(folder: Path) -> None:
    (folder / "LICENSE").write_text("do what you like")
    model, source = load_source(folder, weights=True, trust_remote_code=False)
    assert source.kind == "decoder"
    assert source.architecture == "LlamaForCausalLM"
    assert source.folder == folder
    assert set(source.file_hashes) == {"LICENSE", "config.json", "generation_config.json", "model.safetensors"}
    assert not model.training


def test_a_configuration_alone_gives_a_skeleton_on_the_meta_device(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    model, source = load_source(folder, weights=False, trust_remote_code=False)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert "model.safetensors" not in source.file_hashes


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def no_model_type(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def unknown_model_type(folder: Path) -> None:
    edit_config(folder, model_type="no-such-model")


def impossible_config(folder: Path) -> None:
    edit_config(folder, hidden_size="many")


def remote_code(folder: Path) -> None:
    edit_config(folder, model_type="no-such-model", auto_map={"AutoConfig": "code.Config"})


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def truncated_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:64])


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def garbled_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[8:12] = b"\xff\x00??"
    path.write_bytes(data)


def pointer_file(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    table = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def wrong_index(folder: Path) -> None:
    table = {"no.such.tensor": "model.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def nan_weights(folder: Path) -> None:
    edit_weights(folder, lambda w: w["model.layers.0.mlp.up_proj.weight"][0].fill_(float("nan")))


def infinite_weights(folder: Path) -> None:
    edit_weights(folder, lambda w: w["model.norm.weight"][:1].fill_(float("inf")))


def missing_tensor(folder: Path) -> None:
    edit_weights(folder, lambda w: w.pop("model.layers.0.self_attn.v_proj.weight"))


def wrong_shape(folder: Path) -> None:
    edit_weights(folder, lambda w: w.update({"model.norm.weight": torch.ones(3)}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_folder, "no model folder at"),
        (a_file, "is a file; pass the folder"),
        (no_config, "no config.json in"),
        (broken_config, "config.json cannot be read: Expecting value"),
        (list_config, "holds a list where a JSON object is expected"),
        (no_model_type, "names no model_type"),
        (unknown_model_type, "does not know the model type no-such-model; upgrade transformers"),
        (impossible_config, "cannot be loaded: "),
        (remote_code, "brings its own code; read it, then pass --trust-remote-code"),
        (no_weights, "no weights in"),
        (pickle_only, "pytorch_model.bin is a pickle, which can run any code when it is read, and is refused; convert"),
        (truncated, "is truncated: it holds "),
        (truncated_header, "is truncated or not safetensors (64 bytes)"),
        (empty_weights, "is truncated or not safetensors (0 bytes)"),
        (garbled_header, "has a header that is not safetensors"),
        (pointer_file, "is truncated or not safetensors"),
        (missing_shard, "1 of 2 shards are missing in"),
        (wrong_index, "names tensors that its shards do not hold: no.such.tensor"),
        (nan_weights, "the weight model.layers.0.mlp.up_proj.weight of"),
        (infinite_weights, "holds 1 NaN or infinite values"),
        (missing_tensor, "lacks tensors that LlamaForCausalLM needs: model.layers.0.self_attn.v_proj.weight"),
        (wrong_shape, "model.norm.weight is [3], needed [16]"),
    ],
)
def test_a_bad_source_is_one_clear_line(damage: Callable[[Path], None], message: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(SourceError) as caught:
        load_source(folder, weights=True, trust_remote_code=False)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_hub_id_that_cannot_be_reached_says_what_to_check() -> None:
    with pytest.raises(
        SourceError, match="no folder no-such-org/no-such-model, and the hub gives no model of that id: "
    ):
        load_source("no-such-org/no-such-model", weights=True, trust_remote_code=False)


def test_a_mistyped_path_is_not_taken_for_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="no model folder at models/typo"):
        locate("models/typo", weights=True, trust_remote_code=False)


def test_a_plain_module_needs_example_inputs() -> None:
    with pytest.raises(UsageError, match="needs example inputs"):
        capture(torch.nn.Linear(2, 2))


def test_a_plain_module_is_captured_with_its_parameter_names() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    graph = capture(module, inputs={"x": torch.zeros(3, 4)})
    x = torch.randn(5, 4)
    assert set(graph.parameters()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    torch.testing.assert_close(graph(x)[0], module(x))


def test_a_folder_and_the_live_model_give_the_same_graph(saved: Path) -> None:
    graph = capture(saved)
    live = capture(transformers.LlamaForCausalLM.from_pretrained(saved))
    assert str(graph) == str(live)
    assert graph.source.folder == saved
    assert graph.inputs[:3] == ("input_ids", "attention_mask", "position_ids")


def test_a_model_within_that_lacks_whole_attention_gets_the_automatic_choice() -> None:
    class Loader:
        _supports_sdpa = True

    def load(**options: str) -> dict[str, str]:
        if options:
            raise ValueError("Inner does not support an attention implementation through scaled_dot_product_attention")
        return options

    assert with_whole_attention(Loader, load) == {}
    assert with_whole_attention(Loader, dict) == {"attn_implementation": "sdpa"}
    assert with_whole_attention(object, dict) == {}


def test_tensors_of_another_head_are_a_note(folder: Path) -> None:
    """As in checkpoints of BERT, which hold the heads that it was trained with and a pooler."""
    edit_weights(folder, lambda w: w.update({"other_head.weight": torch.zeros(2)}))
    graph = capture(folder)
    assert graph.source.unread == ("other_head.weight",)
    assert "1 tensor of the checkpoint that LlamaForCausalLM does not read: other_head.weight" in graph.notes
