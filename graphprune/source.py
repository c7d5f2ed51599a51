"""Sources: a folder, a hub id, a live model or a plain module becomes a `Graph`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.decoder import decoder_contract, encoder_contract, is_decoder, transformers_patches
from graphprune.demo import DEMO_FOLDER
from graphprune.errors import SourceError, UsageError
from graphprune.ir import Graph, Source
from graphprune.tracing import Contract, capture_module


def capture(
    model: str | Path | nn.Module,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    weights: bool = True,
    trust_remote_code: bool = False,
) -> Graph:
    """Capture a model as a `Graph`.

    `model` is a folder, a hub id, `demo`, a live `PreTrainedModel`, or any `nn.Module` together with example
    `inputs` by argument name, in order, whose first dimension is the batch. With `weights=False` only the configuration
    is read and the graph holds meta tensors, which is enough to analyse and to plan. Raises SourceError, CaptureError.
    """
    if isinstance(model, (str, Path)):
        loaded, source = load_source(model, weights, trust_remote_code)
        return replace(capture_pretrained(loaded), source=source)
    if hasattr(model, "config") and hasattr(model, "can_generate"):
        return capture_pretrained(model)
    if inputs is None:
        raise UsageError("a plain module needs example inputs: capture(module, inputs={'x': tensor})")
    dynamic = {name: {0: "batch"} for name in inputs}
    return capture_module(Positional(model), Contract(inputs, dynamic), "module.")


class Positional(nn.Module):
    """A plain module that returns its output as a flat tuple."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        output = self.module(*inputs)
        return tuple(output) if isinstance(output, (tuple, list)) else (output,)


def capture_pretrained(model: Any) -> Graph:
    """Capture a live transformers model under the contract that fits it."""
    kind = "decoder" if is_decoder(model) else "encoder"
    wrapper, contract = decoder_contract(model) if kind == "decoder" else encoder_contract(model)
    graph = capture_module(wrapper, contract, "model.", transformers_patches)
    generation = getattr(model, "generation_config", None)
    source = Source(kind, "", type(model).__name__, model.config, generation)
    return replace(graph, source=source)


def load_source(model: str | Path, weights: bool, trust_remote_code: bool) -> tuple[Any, Source]:
    """Load a transformers model and say where it came from. Raises SourceError with the remedy."""
    folder = DEMO_FOLDER if str(model) == "demo" else Path(model)
    if not folder.is_dir():
        raise SourceError(f"no model folder at {model}; pass a folder with config.json and model.safetensors")
    loaded = load_weights(folder, trust_remote_code) if weights else load_skeleton(folder, trust_remote_code)
    generation = getattr(loaded, "generation_config", None)
    kind = "decoder" if is_decoder(loaded) else "encoder"
    return loaded, Source(kind, str(model), type(loaded).__name__, loaded.config, generation, folder)


def load_weights(folder: Path, trust_remote_code: bool) -> Any:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    loader = model_class(config)
    model = loader.from_pretrained(folder, use_safetensors=True, dtype="auto", attn_implementation="sdpa")
    return model.eval()


def load_skeleton(folder: Path, trust_remote_code: bool) -> Any:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        return model_class(config)(config).eval()


def model_class(config: Any) -> Any:
    """The class that the configuration names, or the causal language model of its type."""
    import transformers

    names = config.architectures or []
    known = [getattr(transformers, name) for name in names if hasattr(transformers, name)]
    return known[0] if known else transformers.AutoModelForCausalLM
