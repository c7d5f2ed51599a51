"""Kinds: which contract fits a model."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from graphprune.models.contract import Contract
from graphprune.models.decoder import accepts, decoder_contract, is_decoder
from graphprune.models.encoder import encoder_contract
from graphprune.models.seq2seq import is_seq2seq, seq2seq_contract

if TYPE_CHECKING:
    from transformers import PreTrainedModel


CONTRACTS: Mapping[str, Callable[[Any], tuple[nn.Module, Contract]]] = {
    "decoder": decoder_contract,
    "seq2seq": seq2seq_contract,
    "encoder": encoder_contract,
}


def writes_text(model: "PreTrainedModel") -> bool:
    """Say whether a model without a cache generates text: it gives logits for the ids that it takes."""
    return kind_of(model) == "encoder" and bool(model.can_generate()) and accepts(model, "input_ids")


def kind_of(model: "PreTrainedModel") -> str:
    """The contract that fits a transformers model."""
    return "seq2seq" if is_seq2seq(model) else "decoder" if is_decoder(model) else "encoder"
