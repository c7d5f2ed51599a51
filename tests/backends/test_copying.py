"""Companions: the files of tokenizers, processors and sentence-transformers, by the names that their classes read."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from graphprune.backends.huggingface.copying import class_names, copy_companions, module_folders
from graphprune.errors import SourceError
from graphprune.frontend.checks import check_modules


def write(folder: Path, files: Mapping[str, object]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def copied(folder: Path, target: Path) -> set[str]:
    return {path.relative_to(target).as_posix() for path in copy_companions(folder, target)}


def test_the_names_come_from_the_tokenizers_class(tmp_path: Path) -> None:
    """Whisper's normaliser is in no list of ours."""
    files = {"tokenizer_config.json": {"tokenizer_class": "WhisperTokenizer"}, "normalizer.json": {}, "notes.json": {}}
    source = write(tmp_path / "source", files)
    assert {"normalizer.json", "vocab.json", "merges.txt"} <= set(class_names(source))
    assert copied(source, tmp_path / "out") == {"tokenizer_config.json", "normalizer.json"}


def test_the_class_is_that_of_the_model_type_where_none_is_named(tmp_path: Path) -> None:
    source = write(tmp_path, {"config.json": {"model_type": "whisper"}})
    assert "normalizer.json" in class_names(source)


def test_files_that_the_tokenizers_configuration_names_go_along(tmp_path: Path) -> None:
    files = {
        "tokenizer_config.json": {"vocab_file": "my.words", "other": "../secret"},
        "my.words": "a b",
        "x.words": "",
    }
    source = write(tmp_path / "source", files)
    (tmp_path / "secret").write_text("not copied")
    assert copied(source, tmp_path / "out") == {"tokenizer_config.json", "my.words"}


def test_processors_and_the_tokenizers_within_them_go_along(tmp_path: Path) -> None:
    names = (
        "preprocessor_config.json",
        "processor_config.json",
        "video_preprocessor_config.json",
        "chat_template.json",
    )
    nested = ("qformer_tokenizer/tokenizer_config.json", "qformer_tokenizer/vocab.txt")
    templates = ("additional_chat_templates/tools.jinja",)
    others = ("checkpoint-5/optimizer.json", "runs/notes.txt", "qformer_tokenizer/model.safetensors", "image.py")
    source = write(tmp_path / "source", dict.fromkeys((*names, *nested, *templates, *others), "{}"))
    assert copied(source, tmp_path / "out") == {*names, *nested, *templates}


MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    {"idx": 3, "name": "3", "path": "../elsewhere", "type": "sentence_transformers.models.Normalize"},
]


def sentence_encoder(folder: Path) -> Path:
    own = {"modules.json": MODULES, "sentence_bert_config.json": {}, "config_sentence_transformers.json": {}}
    parts = {"1_Pooling/config.json": {}, "2_Dense/config.json": {}, "2_Dense/model.safetensors": "weights"}
    return write(folder, {**own, **parts, "2_Dense/code.py": "", "3_Other/config.json": {}})


def test_the_modules_of_a_sentence_encoder_go_along_with_their_weights(tmp_path: Path) -> None:
    source = sentence_encoder(tmp_path / "source")
    write(tmp_path, {"elsewhere/config.json": {}})
    assert [folder.name for folder in module_folders(source)] == ["1_Pooling", "2_Dense"]
    assert copied(source, tmp_path / "out") == {
        "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
        "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors",
    }  # fmt: skip


def test_links_to_elsewhere_are_left_out_in_modules_too(tmp_path: Path) -> None:
    source = sentence_encoder(tmp_path / "source")
    (tmp_path / "secret").write_text("not copied")
    os.symlink(tmp_path / "secret", source / "1_Pooling" / "secret.json")
    assert "1_Pooling/secret.json" not in copied(source, tmp_path / "out")


def test_modules_whose_weights_are_a_pickle_are_refused(tmp_path: Path) -> None:
    check_modules(tmp_path)
    source = sentence_encoder(tmp_path / "source")
    check_modules(source)
    (source / "2_Dense" / "model.safetensors").rename(source / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"2_Dense/pytorch_model.bin is a pickle, .*; save the model again with"):
        check_modules(source)
    write(source, {"modules.json": {"path": "1_Pooling"}})
    with pytest.raises(SourceError, match="cannot be read as a list of modules"):
        check_modules(source)


def test_nothing_is_copied_of_no_folder(tmp_path: Path) -> None:
    assert copy_companions(None, tmp_path) == copy_companions(tmp_path / "none", tmp_path) == []
