"""The contract of models without a cache: encoders of text and of images, with their own inputs and outputs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from graphprune.decoder import BATCH, accepts
from graphprune.errors import CaptureError
from graphprune.tracing import Contract


class Encoder(nn.Module):
    """A model without a cache as a function of flat tensors; returns the tensors of its output object."""

    def __init__(self, model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names, self.outputs = inputs, outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        output = self.model(**dict(zip(self.names, inputs, strict=True)), return_dict=True)
        return tuple(output[name] for name in self.outputs)


def encoder_contract(model: Any) -> tuple[Encoder, Contract]:
    """The wrapper and the contract of a model without a cache; image sizes stay static, batch and text length vary."""
    device = next(model.parameters()).device
    inputs: dict[str, Tensor] = {}
    dynamic: dict[str, dict[int, str]] = {}
    if accepts(model, "input_ids"):
        inputs["input_ids"] = torch.zeros(BATCH, 7, dtype=torch.long, device=device)
        dynamic["input_ids"] = {0: "batch", 1: "sequence"}
    if accepts(model, "pixel_values"):
        vision = getattr(model.config, "vision_config", model.config)
        size = vision.image_size if isinstance(vision.image_size, (list, tuple)) else [vision.image_size] * 2
        images = 3 if "input_ids" in inputs else BATCH
        inputs["pixel_values"] = torch.zeros(images, vision.num_channels, *size, device=device)
        dynamic["pixel_values"] = {0: "images" if "input_ids" in inputs else "batch"}
    if "input_ids" in inputs and accepts(model, "attention_mask"):
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        dynamic["attention_mask"] = {0: "batch", 1: "sequence"}
    if accepts(model, "token_type_ids"):
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        dynamic["token_type_ids"] = {0: "batch", 1: "sequence"}
    outputs = probe_outputs(model, inputs)
    text = getattr(model.config, "text_config", model.config)
    longest = getattr(text, "max_position_embeddings", None)
    maximum = {"sequence": int(longest)} if longest and longest > 0 else {}  # -1 stands for no limit (XLNet)
    return Encoder(model, tuple(inputs), outputs), Contract(inputs, dynamic, outputs, maximum)


def probe_outputs(model: Any, inputs: dict[str, Tensor]) -> tuple[str, ...]:
    """The names of the tensors in the model's output object, from one run on fake tensors. Raises CaptureError."""
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        try:
            output = model(**inputs, return_dict=True)
        except Exception as error:  # control flow that depends on values, states of its own: whatever the model does
            reason = f"{type(error).__name__}: {error}"
            raise CaptureError(f"cannot run {type(model).__name__} on tensors without values: {reason}") from error
    return tuple(name for name, value in output.items() if isinstance(value, Tensor))
