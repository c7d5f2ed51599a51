"""What a task adds to a graph: inputs that can be left out, the loss of labels, and the class that holds the outputs.

This file stands alone: graphprune writes it beside modeling_graphprune.py. A task is named as in transformers' classes:
`ForTokenClassification`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from transformers import modeling_outputs
from transformers.loss.loss_utils import LOSS_MAPPING
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import ModelOutput

# The classes that transformers returns from the models of a task; the first that has all outputs of a graph is taken.
OUTPUTS = {
    "Model": ("BaseModelOutput", "BaseModelOutputWithPooling", "BaseModelOutputWithNoAttention", "Seq2SeqModelOutput"),
    "ForSequenceClassification": ("SequenceClassifierOutput", "Seq2SeqSequenceClassifierOutput"),
    "ForTokenClassification": ("TokenClassifierOutput",),
    "ForQuestionAnswering": ("QuestionAnsweringModelOutput", "Seq2SeqQuestionAnsweringModelOutput"),
    "ForMultipleChoice": ("MultipleChoiceModelOutput",),
    "ForNextSentencePrediction": ("NextSentencePredictorOutput",),
    "ForMaskedLM": ("MaskedLMOutput",),
    "ForImageClassification": ("ImageClassifierOutput",),
    "ForVideoClassification": ("ImageClassifierOutput",),
    "ForAudioClassification": ("SequenceClassifierOutput",),
    "ForSeq2SeqLM": ("Seq2SeqLMOutput",),
    "ForSpeechSeq2Seq": ("Seq2SeqLMOutput",),
}
CLASSES = {"ForSequenceClassification", "ForImageClassification", "ForVideoClassification", "ForAudioClassification"}
TOKENS = {"ForMaskedLM", "ForMultipleChoice", "ForNextSentencePrediction", "ForSeq2SeqLM", "ForSpeechSeq2Seq"}

# What the losses of transformers take, by name.
LOSSES = {
    "ForSequenceClassification": ("labels", "pooled_logits", "config"),
    "ForTokenClassification": ("logits", "labels", "config"),
    "ForMaskedLM": ("logits", "labels"),
    "ForQuestionAnswering": ("start_logits", "end_logits", "start_positions", "end_positions"),
}


def contract_inputs(given: Mapping[str, Any], types: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """The inputs of a graph in its types, numbers in that of the model. Raises ValueError where some are missing."""
    missing = [name for name in types if given.get(name) is None]
    if missing:
        raise ValueError(f"this model also needs the inputs {', '.join(missing)}")
    mask = given.get("attention_mask")
    if mask is not None and "attention_mask" not in types and not bool(mask.all()):
        raise ValueError("this model takes no attention_mask: pass inputs without padding, each by itself")
    if given.get("output_hidden_states") or given.get("output_attentions"):
        raise ValueError("a graphprune model gives no hidden states and no attentions")
    return {name: given[name].to(dtype if kind.is_floating_point else kind) for name, (kind, _) in types.items()}


def complete(given: Mapping[str, Any], config: Any, labels: Tensor | None) -> dict[str, Any]:
    """The inputs with those that follow from others: masks of ones, segments of zeros, the tokens before the labels."""
    found = dict(given)
    ids = found.get("input_ids")
    if ids is not None and found.get("attention_mask") is None:
        found["attention_mask"] = torch.ones_like(ids)
    if ids is not None and found.get("token_type_ids") is None:
        found["token_type_ids"] = torch.zeros_like(ids)
    if config.is_encoder_decoder and found.get("decoder_input_ids") is None and labels is not None:
        found["decoder_input_ids"] = shift_right(labels, config)
    return found


def shift_right(labels: Tensor, config: Any) -> Tensor:
    """What the decoder reads where it is to write the labels: its start token and all of them but the last."""
    pad, start = getattr(config, "pad_token_id", None), getattr(config, "decoder_start_token_id", None)
    if start is None:
        raise ValueError("the configuration names no decoder_start_token_id; pass decoder_input_ids with the labels")
    moved = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], 1)
    return moved.masked_fill(moved == -100, pad or 0)


def task_loss(
    task: str, outputs: Mapping[str, Tensor], config: Any, wanted: Mapping[str, Tensor], options: Mapping[str, Any]
) -> Tensor:
    """The loss as transformers computes it for the models of the task. Raises ValueError where there is none."""
    name = "ForSequenceClassification" if task in CLASSES else "ForMaskedLM" if task in TOKENS else task
    known = {**outputs, **wanted, "pooled_logits": outputs.get("logits"), "config": config}
    needed = LOSSES.get(name, ())
    if not needed or any(known.get(part) is None for part in needed):
        raise ValueError(f"a graphprune model {task} computes no loss of {', '.join(wanted)}; do so from its outputs")
    further = dict(options) if name in ("ForTokenClassification", "ForMaskedLM") else {}
    if name == "ForMaskedLM":
        further["vocab_size"] = outputs["logits"].shape[-1]
    losses: Mapping[str, Any] = LOSS_MAPPING
    loss: Tensor = losses[name](**{part: known[part] for part in needed}, **further)
    return loss


def task_output(task: str, outputs: Mapping[str, Tensor], loss: Tensor | None) -> ModelOutput:
    """The outputs in the class that transformers has for the task, or by name alone where it has none that fits."""
    found = outputs if loss is None else {"loss": loss, **outputs}
    for cls in output_classes(task):
        if set(found) <= {field.name for field in fields(cls)}:
            result: ModelOutput = cls(**found)
            return result
    return ModelOutput(found)


def output_classes(task: str) -> Iterator[Any]:
    return (getattr(modeling_outputs, name) for name in OUTPUTS.get(task, ()))


class Untouched(nn.Module):
    """Hands on what an encoder is given: the graph computes encoder and decoder as one."""

    def forward(self, input_ids: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        others = (kwargs.get(name) for name in ("input_features", "input_values", "pixel_values"))
        given = next((tensor for tensor in (input_ids, *others) if tensor is not None), None)
        return BaseModelOutput(last_hidden_state=given)
