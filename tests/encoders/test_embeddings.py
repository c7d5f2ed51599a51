"""Which outputs are embeddings, and how they are read."""

from pathlib import Path

import pytest
import torch

from graphprune.encoders.embeddings import embed, find_embeddings, is_text_encoder, require_embeddings
from graphprune.encoders.examples import Wanted, prepare_passages
from graphprune.errors import DataError, UsageError
from graphprune.frontend.source import capture
from tests.support.families import graph as graph_of
from tests.support.tiny_encoder import write_encoder


def test_an_encoder_of_texts_pools_as_its_folder_says(tmp_path: Path) -> None:
    graph = capture(write_encoder(tmp_path, "pooling_mode_cls_token"), dtype=torch.float32)
    (found,) = require_embeddings(graph)
    assert (found.name, found.place, found.pooling) == ("last_hidden_state", 0, ("cls_token",))
    batch = {"input_ids": torch.tensor([[2, 7, 9, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    (values,) = embed(graph, [found], [batch])
    states = graph(*(batch[name] for name in graph.inputs))[0]
    expected = torch.nn.functional.normalize(states[:, 0], dim=-1)
    torch.testing.assert_close(values["last_hidden_state"], expected)


def test_towers_are_two_and_others_have_none() -> None:
    assert [each.name for each in find_embeddings(graph_of("clip"))] == ["image_embeds", "text_embeds"]
    for name in ("llama", "vit", "bert"):
        assert find_embeddings(graph_of(name)) == ()
        assert not is_text_encoder(graph_of(name))
    with pytest.raises(UsageError, match="has no embeddings"):
        require_embeddings(graph_of("llama"))


def test_passages_are_no_longer_than_users_cut_them(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    graph, text = capture(folder, dtype=torch.float32), str(folder / "text.txt")
    assert max(batch["input_ids"].shape[1] for batch in prepare_passages(graph, Wanted(text, 3, 128)).batches) == 16
    (folder / "sentence_bert_config.json").unlink()
    longest = max(batch["input_ids"].shape[1] for batch in prepare_passages(graph, Wanted(text, 39, 128)).batches)
    assert 16 < longest <= 32  # what the model has positions for
    (tmp_path / "one.txt").write_text("a cat.")
    with pytest.raises(DataError, match="give 2 or more"):
        prepare_passages(graph, Wanted(str(tmp_path / "one.txt"), 4, 128, held_out=str(folder / "text.txt")))
