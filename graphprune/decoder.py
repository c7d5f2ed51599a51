"""The contracts of transformers models: decoders with a flat cache, encoders with their own inputs."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from graphprune.dense_rows import dense_rows
from graphprune.errors import CaptureError
from graphprune.tracing import Contract

# Example sizes differ from each other and from 0 and 1, which torch.export treats as constants.
BATCH, SEQUENCE, PAST = 2, 3, 5


class Decoder(nn.Module):
    """A causal language model as a function of flat tensors: ids, mask, positions, key and value of each layer."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        plain = {n: t for n, t in zip(self.names, inputs, strict=True) if not n.startswith("past_key_values.")}
        past = inputs[len(plain) :]
        cache = new_cache(self.model)
        for layer, key, value in zip(cache.layers, past[::2], past[1::2], strict=True):
            layer.lazy_initialization(key, value)
            layer.keys, layer.values = key, value
        output = self.model(**plain, past_key_values=cache, use_cache=True)
        layers = output.past_key_values.layers
        return (output.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))


class Encoder(nn.Module):
    """A model without a cache as a function of flat tensors; returns the tensors of its output object."""

    def __init__(self, model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names, self.outputs = inputs, outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        output = self.model(**dict(zip(self.names, inputs, strict=True)), return_dict=True)
        return tuple(output[name] for name in self.outputs)


def new_cache(model: Any) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


@contextlib.contextmanager
def transformers_patches(used: list[str] | None = None) -> Iterator[None]:
    """The reversible patches with which transformers' own exporters make its models traceable, and `DenseRows`.

    What the latter had to replace is added to `used`: the graph is then to be compared with the model.
    """
    import transformers.exporters.exporter_dynamo  # noqa: F401 - registers the patches
    from transformers.exporters.utils import apply_patches

    with apply_patches("dynamo"), dense_rows([] if used is None else used):
        yield


@contextlib.contextmanager
def traceable_experts(model: Any) -> Iterator[None]:
    """Let mixtures of experts run as batched products, the form whose shapes do not depend on the routing."""
    old = getattr(model.config, "_experts_implementation", None)
    if old is None or not hasattr(model, "set_experts_implementation"):
        yield
        return
    model.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        model.set_experts_implementation(old)


def accepts(model: Any, name: str) -> bool:
    return name in inspect.signature(model.forward).parameters


def is_decoder(model: Any) -> bool:
    """Say whether the model generates text with a cache."""
    return bool(model.can_generate()) and accepts(model, "past_key_values")


def decoder_contract(model: Any) -> tuple[Decoder, Contract]:
    """The wrapper and the contract of a causal language model, read off a run on fake tensors."""
    device = next(model.parameters()).device
    ids = torch.zeros(BATCH, SEQUENCE, dtype=torch.long, device=device)
    inputs: dict[str, Tensor] = {"input_ids": ids}
    dynamic: dict[str, dict[int, str]] = {"input_ids": {0: "batch", 1: "sequence"}}
    if accepts(model, "attention_mask"):
        inputs["attention_mask"] = torch.ones(BATCH, PAST + SEQUENCE, dtype=torch.long, device=device)
        dynamic["attention_mask"] = {0: "batch", 1: "past + sequence"}
    if accepts(model, "position_ids"):
        inputs["position_ids"] = torch.arange(PAST, PAST + SEQUENCE, device=device).repeat(BATCH, 1)
        dynamic["position_ids"] = {0: "batch", 1: "sequence"}
    outputs = ["logits"]
    for index, pair in enumerate(probe_cache(model)):
        for part, (heads, size, dtype) in zip(("key", "value"), pair, strict=True):
            name = f"past_key_values.{index}.{part}"
            inputs[name] = torch.zeros(BATCH, heads, PAST, size, dtype=dtype, device=device)
            dynamic[name] = {0: "batch", 2: "past"}
            outputs.append(f"present.{index}.{part}")
    return Decoder(model, tuple(inputs)), Contract(inputs, dynamic, tuple(outputs))


def probe_cache(model: Any) -> list[list[tuple[int, int, torch.dtype]]]:
    """Heads, head size and type of each layer's key and value, from one run on fake tensors."""
    device = next(model.parameters()).device
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), transformers_patches():
        ids = torch.zeros(1, 2, dtype=torch.long, device=device)
        try:
            layers = model(input_ids=ids, past_key_values=new_cache(model), use_cache=True).past_key_values.layers
        except Exception as error:
            raise CaptureError(f"cannot run {type(model).__name__} with a cache: {error}") from error
    for index, layer in enumerate(layers):
        if not isinstance(getattr(layer, "keys", None), Tensor) or layer.keys.ndim != 4:
            raise CaptureError(
                f"layer {index} of {type(model).__name__} keeps a {type(layer).__name__}, not keys and values"
            )
    return [[(int(t.shape[1]), int(t.shape[3]), t.dtype) for t in (layer.keys, layer.values)] for layer in layers]


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
