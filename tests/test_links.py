"""Links out of a folder: seen whatever they are called; the hub's cache, which is made of links, goes on working."""

from pathlib import Path

import pytest

from graphprune.backends.huggingface.copying import copy_companions
from graphprune.backends.onnx import files
from graphprune.errors import SourceError
from graphprune.frontend.checks import check_folder, hash_files
from graphprune.frontend.source import link_notes
from graphprune.paths import links_outside, stays_inside


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "id_rsa"
    path.parent.mkdir()
    path.write_text("secret")
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "additional_chat_templates").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "LICENSE.txt").symlink_to(folder / "tokenizer.json")  # within the folder
    return folder


def test_links_to_elsewhere_are_not_copied_and_are_named(model: Path, secret: Path, tmp_path: Path) -> None:
    (model / "vocab.json").symlink_to(secret)
    (model / "NOTICE").symlink_to("../home/id_rsa")
    (model / "merges.txt").symlink_to(model / "NOTICE")  # a link to a link
    (model / "additional_chat_templates" / "a.jinja").symlink_to(secret)
    assert links_outside(model) == ["NOTICE", "merges.txt", "vocab.json"]
    assert "NOTICE, merges.txt, vocab.json" in link_notes(model)[0]
    target = tmp_path / "out"
    copied = [*copy_companions(model, target), *files.copy_companions(model, target)]
    assert {path.name for path in copied} == {"tokenizer.json", "LICENSE.txt", "config.json"}
    assert "secret" not in "".join(path.read_text() for path in target.rglob("*") if path.is_file())
    assert not {"NOTICE", "vocab.json"} & hash_files(model, True).keys()


def test_a_linked_folder_of_templates_is_not_copied(model: Path, secret: Path, tmp_path: Path) -> None:
    (model / "additional_chat_templates").rmdir()
    (model / "additional_chat_templates").symlink_to(secret.parent)
    assert not (tmp_path / "out" / "additional_chat_templates").exists()
    assert "id_rsa" not in {path.name for path in copy_companions(model, tmp_path / "out")}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model-00001-of-00002.safetensors"])
def test_weights_and_configuration_are_not_read_through_a_link(model: Path, secret: Path, name: str) -> None:
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(secret)
    with pytest.raises(SourceError, match="is a link to a place outside the folder"):
        check_folder(model)


def test_a_folder_that_is_a_link_itself_is_read(model: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(model)
    check_folder(tmp_path / "link")
    assert links_outside(tmp_path / "link") == []
    assert link_notes(model) == ()
    assert link_notes(None) == ()


def test_the_cache_of_the_hub_is_made_of_links(tmp_path: Path, secret: Path) -> None:
    cache = tmp_path / "models--acme--tiny"
    snapshot, blobs = cache / "snapshots" / "abc", cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/123")
    (snapshot / "tokenizer.json").symlink_to("../../blobs/123")
    check_folder(snapshot)
    assert {path.name for path in copy_companions(snapshot, tmp_path / "out")} == {"tokenizer.json"}
    (snapshot / "vocab.json").symlink_to(secret)
    assert links_outside(snapshot) == ["vocab.json"]


def test_what_is_missing_stays_inside(tmp_path: Path) -> None:
    assert stays_inside(tmp_path / "none", tmp_path)
    assert not stays_inside(tmp_path / ".." / "none", tmp_path)
