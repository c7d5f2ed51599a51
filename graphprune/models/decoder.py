"""The contract of causal language models: flat tensors, with the cache as keys and values of each layer."""

import copy
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graphprune.errors import CaptureError, ForeignError, foreign_code
from graphprune.ir.contract import PREFIX, State, is_state
from graphprune.models.caches import fill, keeps_keys, layer_tensors, read_states
from graphprune.models.contract import Contract
from graphprune.models.patches import transformers_patches
from graphprune.models.trial_runs import fake_run

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# Example sizes differ from each other and from 0 and 1, which torch.export treats as constants.
BATCH, SEQUENCE, PAST = 2, 3, 5


class Decoder(nn.Module):
    """A causal language model as a function of flat tensors: ids, mask, positions, the states of each layer."""

    def __init__(self, model: "PreTrainedModel", names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, inputs, strict=True))
        plain = {name: tensor for name, tensor in given.items() if not is_state(name)}
        argument, cache = cache_argument(self.model), new_cache(self.model)
        if "attention_mask" in plain and not keeps_keys(cache):
            plain["attention_mask"] = plain["attention_mask"][:, -plain["input_ids"].shape[1] :]
        for index, layer in enumerate(cache.layers):
            start = f"{PREFIX}{index}."
            fill(layer, {n.removeprefix(start): t for n, t in given.items() if n.startswith(start)})
        output = self.model(**plain, **{str(argument): cache}, use_cache=True)
        layers = output[argument].layers
        return (output.logits, *(tensor for layer in layers for _, tensor in layer_tensors(layer)))


def new_cache(model: "PreTrainedModel") -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def accepts(model: "PreTrainedModel", name: str) -> bool:
    return name in inspect.signature(model.forward).parameters


def cache_arguments() -> tuple[str, ...]:
    """The names that this transformers has for caches, the usual one first: `cache` in all models since 5.24."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    renamed = "cache" in CausalLMOutputWithPast.__dataclass_fields__
    return (*(("cache",) if renamed else ()), "past_key_values", "cache_params")


def cache_argument(model: "PreTrainedModel") -> str | None:
    """The name under which the model takes and returns its cache.

    XLM and Flaubert have a dictionary of their own under that name, which generation does not know.
    """
    taken = inspect.signature(model.forward).parameters
    names = (name for name in cache_arguments() if name in taken and "dict" not in str(taken[name].annotation))
    return next(names, None)


def is_decoder(model: "PreTrainedModel") -> bool:
    """Say whether the model generates text with a cache."""
    return bool(model.can_generate()) and cache_argument(model) is not None


def same_tensors(model: "PreTrainedModel") -> Any:
    """A copy of the model on its own parameters and buffers: some models keep what they compute when they first run."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def decoder_contract(model: "PreTrainedModel") -> tuple[Decoder, Contract]:
    """The wrapper and the contract of a causal language model, read off a run on fake tensors."""
    model = same_tensors(model)
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
    sizes = {"batch": BATCH, "past": PAST}
    for state in probe_states(model):
        shape = [sizes[size] if isinstance(size, str) else size for size in state.shape]
        inputs[state.name] = torch.zeros(shape, dtype=state.dtype, device=device)
        dynamic[state.name] = state.dynamic
        outputs.append(state.present)
    return Decoder(model, tuple(inputs)), Contract(inputs, dynamic, tuple(outputs))


def probe_states(model: "PreTrainedModel") -> tuple[State, ...]:
    """What each layer keeps between calls, from one run on fake tensors."""
    device = next(model.parameters()).device
    argument = str(cache_argument(model))
    with transformers_patches(), fake_run(model):
        ids = torch.zeros(1, 2, dtype=torch.long, device=device)
        try:
            with foreign_code():
                cache = model(input_ids=ids, **{argument: new_cache(model)}, use_cache=True)[argument]
        except ForeignError as error:
            raise CaptureError(f"cannot run {type(model).__name__} with a cache: {error}") from error
    if not hasattr(cache, "layers"):
        raise CaptureError(f"{type(model).__name__} keeps a {type(cache).__name__}, which has no layers of its own")
    return read_states(cache)
