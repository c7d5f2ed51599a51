"""Adapters: what their configuration says is read without torch, and what is more than W + scale B A is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from graphprune.errors import SourceError
from graphprune.frontend import places
from graphprune.frontend.adapters import adapter_in
from graphprune.frontend.places import is_hub_id, look_at
from tests.support.tiny_adapter import factors, write_adapter

TENSORS = factors("model.layers.0.mlp.down_proj", 4, 4)


def test_a_plain_one_is_read(tmp_path: Path) -> None:
    found = adapter_in(write_adapter(tmp_path / "a", "acme/base", TENSORS, lora_alpha=6, alpha_pattern={"up_proj": 1}))
    assert found is not None
    assert (found.base, found.scale("x.down_proj", 4), found.scale("x.up_proj", 4)) == ("acme/base", 1.5, 0.25)
    assert adapter_in(tmp_path) is None
    (tmp_path / "a" / "config.json").write_text("{}")
    assert adapter_in(tmp_path / "a") is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "is a IA3 adapter of acme/base, not a model; merge it first"),
        ({"use_dora": True}, "it has use_dora, which is more than W"),
        ({"use_something_new": True}, "it has use_something_new"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "it has target_parameters"),
        ({"trainable_token_indices": [1]}, "it has trainable_token_indices"),
        ({"layer_replication": [[0, 1]]}, "it has layer_replication"),
        ({"init_lora_weights": "pissa_niter_4"}, "weights that began as pissa_niter_4"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"lora_alpha": "many"}, "lora_alpha in .* is 'many' and no number"),
        ({"lora_alpha": True}, "lora_alpha in .* no number"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "plain names are read"),
        ({"alpha_pattern": [1]}, "its alpha_pattern is no object"),
    ],
)
def test_what_is_more_is_refused_with_the_remedy(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        adapter_in(write_adapter(tmp_path / "a", "acme/base", TENSORS, **changes))
    assert "\n" not in str(caught.value)


def test_weights_are_safetensors_and_whole(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", "acme/base", TENSORS)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(SourceError, match="truncated"):
        adapter_in(folder)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(SourceError, match=r"adapter_model\.bin is a pickle, which is refused; save the adapter again"):
        adapter_in(folder)
    (folder / "adapter_config.json").write_text("[1]")
    with pytest.raises(SourceError, match="cannot be read"):
        adapter_in(folder)


def test_of_a_folder_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = write_adapter(tmp_path / "a", "acme/base", TENSORS)
    with pytest.raises(
        SourceError, match="is an adapter of acme/base: it is not on this machine; fetch it first: hf download"
    ):
        look_at(str(folder))


def test_an_adapter_of_an_adapter_is_refused(tmp_path: Path) -> None:
    first = write_adapter(tmp_path / "a", ".", TENSORS)
    with pytest.raises(SourceError, match="that is an adapter itself; merge it first"):
        look_at(str(first))


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("org/name", True),
        ("org/name@v1.0", True),
        ("org/name@a/b", True),
        ("demo", False),
        ("./x", False),
        ("a/b@", False),
        ("a/b@../c", False),
    ],
)
def test_an_id_may_name_a_revision(name: str, is_one: bool) -> None:
    assert is_hub_id(name) == is_one


def test_a_revision_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot_download(name: str, **options: Any) -> str:
        asked.append((name, options["revision"], options["local_files_only"]))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert places.locate("org/name@v2", False, False) == (tmp_path, tmp_path.name)
    assert places.locate("org/name", False, False) == (tmp_path, tmp_path.name)
    assert asked == [("org/name", "v2", False), ("org/name", None, False)]
