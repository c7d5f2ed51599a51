"""The parts beside the generic class: tasks and their losses, caches as states, the configuration."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers import modeling_outputs

from graphprune.generic.caches_graphprune import cache_names, find_layer, read_past, store_present
from graphprune.generic.configuration_graphprune import GraphpruneConfig
from graphprune.generic.tasks_graphprune import complete, contract_inputs, shift_right, task_loss, task_output

LOGITS, LABELS = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0])
CONFIG: Any = GraphpruneConfig(num_labels=3)


def test_the_decoder_reads_what_it_is_to_write_one_later() -> None:
    config = SimpleNamespace(pad_token_id=7, decoder_start_token_id=1)
    moved = shift_right(torch.tensor([[4, 5, -100, 6]]), config)
    assert moved.tolist() == [[1, 4, 5, 7]]
    with pytest.raises(ValueError, match="names no decoder_start_token_id"):
        shift_right(LABELS[None], SimpleNamespace(pad_token_id=7))


def test_what_follows_from_other_inputs_can_be_left_out() -> None:
    ids = torch.tensor([[4, 5]])
    found = complete({"input_ids": ids, "attention_mask": None}, CONFIG, None)
    assert found["attention_mask"].tolist() == [[1, 1]]
    assert found["token_type_ids"].tolist() == [[0, 0]]
    assert "decoder_input_ids" not in found


def test_inputs_come_in_the_types_of_the_graph() -> None:
    types = {"pixel_values": (torch.float32, []), "input_ids": (torch.int64, [])}
    given = {"pixel_values": torch.zeros(1), "input_ids": torch.zeros(1, dtype=torch.int32), "other": None}
    found = contract_inputs(given, types, torch.bfloat16)
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "pixel_values": torch.bfloat16, "input_ids": torch.int64,
    }  # fmt: skip
    with pytest.raises(ValueError, match="also needs the inputs pixel_values, input_ids"):
        contract_inputs({}, types, torch.float32)


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ("Model", {"labels": LABELS}),
        ("ForDepthEstimation", {"labels": LABELS}),
        ("ForQuestionAnswering", {"labels": LABELS}),
        ("ForQuestionAnswering", {"start_positions": LABELS}),
        ("ForTokenClassification", {"start_positions": LABELS}),
    ],
)
def test_a_loss_that_is_none_of_the_task_is_refused(task: str, wanted: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"a graphprune model {task} computes no loss of {next(iter(wanted))}"):
        task_loss(task, {"logits": LOGITS, "start_logits": LOGITS, "end_logits": LOGITS}, CONFIG, wanted, {})


def test_a_loss_is_shared_out_over_a_larger_batch_where_a_trainer_says_so() -> None:
    given = {"logits": LOGITS[None].repeat(1, 1, 1)}, CONFIG, {"labels": LABELS[None]}
    mean, whole = (task_loss("ForTokenClassification", *given, options) for options in ({}, {"num_items_in_batch": 4}))
    torch.testing.assert_close(mean, torch.nn.functional.cross_entropy(LOGITS, LABELS))
    torch.testing.assert_close(whole, mean / 2)


def test_outputs_that_no_class_has_are_given_by_name() -> None:
    known = task_output("ForSequenceClassification", {"logits": LOGITS}, LOGITS.sum())
    assert type(known) is modeling_outputs.SequenceClassifierOutput
    assert known[0] is known["loss"]
    states = task_output("ForSequenceClassification", {"logits": LOGITS, "encoder_last_hidden_state": LOGITS}, None)
    assert type(states) is modeling_outputs.Seq2SeqSequenceClassifierOutput
    other = task_output("ForObjectDetection", {"logits": LOGITS, "pred_boxes": LOGITS}, None)
    assert list(other) == ["logits", "pred_boxes"]
    assert other[1] is LOGITS


def test_states_go_into_a_cache_and_come_out_again() -> None:
    names = ["input_ids", "past_key_values.0.key", "past_key_values.0.value"]
    caches = cache_names(names)
    assert caches == [{"key": names[1], "value": names[2]}]
    cache = transformers.DynamicCache(config=transformers.LlamaConfig(num_hidden_layers=1))
    new = torch.randn(1, 2, 5, 4)
    store_present(caches, cache, {"present.0.key": new, "present.0.value": new}, 0, torch.float32)
    empty = {name: torch.zeros(1, 2, 0, 4) for name in names[1:]}
    assert torch.equal(read_past(caches, cache, 3, empty)[names[1]], new[:, :, :3])
    assert read_past(caches, None, 0, empty)[names[2]].shape == (1, 2, 0, 4)
    with pytest.raises(ValueError, match="takes a DynamicCache or a StaticCache"):
        find_layer(SimpleNamespace(layers=[object()], offloading=False), 0)


def test_a_configuration_is_shown_without_its_graph() -> None:
    assert "secret" not in repr(GraphpruneConfig(graph="secret"))
    assert '"is_encoder_decoder": true' in repr(GraphpruneConfig(is_encoder_decoder=True))
