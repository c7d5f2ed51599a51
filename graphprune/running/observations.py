"""Observations: what a model computes on seeded inputs, small enough to be kept beside it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphprune.context import fitting_run
from graphprune.ir.contract import DERIVED, context_length, fitting_length, rows_of_ids
from graphprune.ir.graph import Graph
from graphprune.ir.sizes import concrete
from graphprune.ir.types import TensorType
from graphprune.running.runners import Runner, graph_runner

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROMPT, STEPS, NEW_TOKENS = 12, 4, 64

Observations = dict[str, Tensor]


def reference(graph: Graph, seed: int = 0) -> Observations:
    """What the graph computes on seeded random inputs; everything that a comparison needs, and small.

    Decoders: logits of a prefill, of cached single-token steps, of a left-padded batch with one cached step after it,
    and greedy tokens with the margin between the best and the second logit. Encoders: inputs and outputs by name.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if graph.source.kind != "decoder":
            return encoder_reference(graph, generator)
        inputs = example_prompts(graph, generator)
        runner = graph_runner(graph)
        tokens, margins = greedy(runner, inputs["input.prompt"], new_tokens(graph))
        return {**inputs, **observe(runner, inputs), "greedy.tokens": tokens, "greedy.margins": margins}


def example_prompts(graph: Graph, generator: torch.Generator) -> Observations:
    """A prompt, tokens to feed one at a time, and two prompts of different lengths padded on the left."""
    vocabulary = int(graph.results["logits"].meta["value"].shape[-1])
    length, steps = prompt_length(graph), min(STEPS, new_tokens(graph))
    rows = rows_of_ids(graph)
    ids = torch.randint(vocabulary, (2 * rows, length), generator=generator)
    mask = torch.ones(2, length, dtype=torch.long)
    mask[0, : length // 2] = 0
    following = torch.randint(vocabulary, (2 * rows, steps), generator=generator)
    return {
        "input.prompt": torch.randint(vocabulary, (rows, length), generator=generator),
        "input.steps": following[:rows],
        "input.padded": ids * mask.repeat_interleave(rows, 0),
        "input.mask": mask,
        "input.padded_step": following[:, :1].clone(),
    }


def prompt_length(graph: Graph) -> int:
    """The tokens of a prompt: at most half of what the model was made for."""
    return fitting_run(context_length(graph), PROMPT, PROMPT)[0]


def new_tokens(graph: Graph) -> int:
    """The tokens after it, which reach the end of a short context and do not pass it."""
    length = prompt_length(graph)
    return max(1, min(NEW_TOKENS, fitting_length(graph, length + NEW_TOKENS) - length))


def observe(runner: Runner, inputs: Mapping[str, Tensor]) -> Observations:
    """Logits of a prefill, of cached steps, of a left-padded batch and of a cached step after that."""
    prompt, steps = inputs["input.prompt"], inputs["input.steps"]
    logits, past = runner(prompt, torch.ones_like(prompt[:1]), arange(prompt[:1]), None)
    # A few positions are enough where the vocabulary is large.
    kept = max(1, 1_000_000 // logits.shape[-1])
    found = {"prefill": logits[:, -kept:]}
    stepped = []
    for index in range(steps.shape[1]):
        length = prompt.shape[1] + index
        mask, position = torch.ones(1, length + 1, dtype=torch.long), torch.tensor([[length]])
        logits, past = runner(steps[:, index : index + 1], mask, position, past)
        stepped.append(logits[:, -1])
    found["cached steps"] = torch.stack(stepped, 1)
    return {
        **{name: tensor.detach().cpu().contiguous() for name, tensor in found.items()},
        **observe_padded(runner, inputs),
    }


def observe_padded(runner: Runner, inputs: Mapping[str, Tensor]) -> Observations:
    """Logits of a left-padded batch, one row of which has no padding, and of a cached step after that."""
    ids, mask, token = inputs["input.padded"], inputs["input.mask"], inputs["input.padded_step"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits, past = runner(ids, mask, positions, None)
    longer = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    step = runner(token, longer, positions[:, -1:] + 1, past)[0]
    found = {"left-padded batch": logits[:, -1], "left-padded cached step": step[:, -1]}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def arange(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1]).expand(ids.shape).contiguous()


def greedy(runner: Runner, prompt: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`count` greedy tokens of each row of one prompt with the cache, and how far each was ahead of the second best."""
    ids, past, length = prompt, None, 0
    tokens: list[int] = []
    margins: list[float] = []
    for _ in range(count):
        positions = arange(ids[:1]) + length
        length += ids.shape[1]
        logits, past = runner(ids, torch.ones(1, length, dtype=torch.long), positions, past)
        best = logits[:, -1].detach().float().topk(2).values
        ids = logits[:, -1].argmax(-1, keepdim=True).cpu()
        tokens += ids[:, 0].tolist()
        margins += (best[:, 0] - best[:, 1]).tolist()
    return torch.tensor(tokens), torch.tensor(margins)


def encoder_reference(graph: Graph, generator: torch.Generator) -> Observations:
    inputs = {n: encoder_input(n, node.meta["value"], graph, generator) for n, node in graph.placeholders.items()}
    device = next(iter(graph.tensors().values())).device
    outputs = graph(*(tensor.to(device) for tensor in inputs.values()))
    found = {name: tensor.cpu().contiguous() for name, tensor in zip(graph.outputs, outputs, strict=True)}
    return {**{f"input.{n}": t for n, t in inputs.items()}, **found}


def encoder_input(name: str, type_: TensorType, graph: Graph, generator: torch.Generator) -> Tensor:
    """Random values for floats, valid ids for tokens, ones for masks, zeros for other integers."""
    sizes = {"batch": 2, "images": 2, "target": 5}
    symbols = {str(s) for size in type_.shape if not isinstance(size, int) for s in size.free_symbols}
    shape = concrete(type_.shape, {**dict.fromkeys(symbols, 7), **sizes})
    if type_.dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(type_.dtype)
    if "mask" in name:
        return torch.ones(shape, dtype=type_.dtype)
    config = graph.source.config if name.endswith("input_ids") else None
    vocabulary = 1 if config is None else getattr(config.get_text_config(), "vocab_size", 2)
    return torch.randint(vocabulary, shape, generator=generator).to(type_.dtype)


def observe_encoder(model: "PreTrainedModel", expected: Mapping[str, Tensor]) -> Observations:
    """The outputs of a transformers encoder on the inputs of a reference."""
    device = next(model.parameters()).device
    inputs = {n.removeprefix("input."): t.to(device) for n, t in expected.items() if n.startswith("input.")}
    output = model(**inputs)
    return {name: output[name].detach().cpu() for name in expected if not name.startswith("input.")}


def reference_kind(graph: Graph) -> str:
    """The kind that a reference states: `derived` for decoders whose transformers class runs without a cache."""
    return DERIVED if graph.source.derived_cache else graph.source.kind
