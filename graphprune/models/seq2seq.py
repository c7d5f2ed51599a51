"""The contract of encoder-decoders: one graph for the encoder and the decoder, without a cache."""

from typing import TYPE_CHECKING

import torch

from graphprune.generic.interfaces import auto_class
from graphprune.models.contract import Contract
from graphprune.models.decoder import BATCH, accepts, same_tensors
from graphprune.models.encoder import Stateless, longest_text, model_inputs, probe_outputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


TARGET = 5
_WITHOUT_HEAD = ("AutoModel", "AutoModelForTextEncoding", "AutoModelForPreTraining")


def is_seq2seq(model: "PreTrainedModel") -> bool:
    """Say whether the model reads one sequence and is given another: one that classifies makes the second itself."""
    pair = bool(getattr(model.config, "is_encoder_decoder", False)) and accepts(model, "decoder_input_ids")
    return pair and (bool(model.can_generate()) or auto_class(type(model).__name__) in _WITHOUT_HEAD)


def seq2seq_contract(model: "PreTrainedModel") -> tuple[Stateless, Contract]:
    """The wrapper and the contract of an encoder-decoder.

    What the encoder takes, with `decoder_input_ids` [batch, target], gives `logits` [batch, target, vocabulary]: the
    whole target at once, as in training; a model without a head gives its states. Both lengths vary, each on its own.
    """
    model = same_tensors(model)
    device = next(model.parameters()).device
    target = {"decoder_input_ids": torch.zeros(BATCH, TARGET, dtype=torch.long, device=device)}
    inputs, dynamic = model_inputs(model, target)
    inputs |= target
    dynamic["decoder_input_ids"] = {0: "batch", 1: "target"}
    maximum = longest_text(model, "sequence", "target")
    probed = probe_outputs(model, inputs)
    outputs = ("logits",) if "logits" in probed else probed
    return Stateless(model, tuple(inputs), outputs), Contract(inputs, dynamic, outputs, maximum)
