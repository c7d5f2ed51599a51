"""The parity check of GGUF files in llama.cpp, where llama-cpp-python is installed."""

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from graphprune.errors import ParityError
from graphprune.running.comparison import Check, Coarseness, compare, compare_tokens, in_fewer_bits

_FLOAT = 0  # of the cache, which llama.cpp has in float16 else
# llama.cpp computes with activations in the type of the weights.
LIMITS = {
    "f32": Coarseness(1e-4, 1e-4),
    "f16": Coarseness(1e-2, 1e-2),
    "bf16": Coarseness(3e-2, 3e-2),
    "q8_0": Coarseness(0.1, 0.1),
}


def can_check() -> bool:
    return importlib.util.find_spec("llama_cpp") is not None


def check_gguf(path: Path, expected: Mapping[str, Tensor]) -> Iterator[Check]:
    """Logits of a prompt and of cached steps, and greedy tokens; below f32 these may differ, and are stated."""
    precision, count = path.stem.removeprefix("model-"), len(expected["greedy.tokens"])
    limits = LIMITS[precision]
    prompt, steps = expected["input.prompt"][0].tolist(), expected["input.steps"][0].tolist()
    with contextlib.closing(open_model(path, count + len(prompt) + len(steps))) as model:
        rows = [feed(model, prompt), *(feed(model, [token]) for token in steps)]
        tokens = greedy_tokens(model, prompt, count)
    found = {"prefill": rows[0][-expected["prefill"].shape[1] :], "cached steps": torch.cat(rows[1:])}
    for name, logits in found.items():
        yield in_fewer_bits(compare("gguf", name, expected[name][0], logits.to(expected[name].dtype)), limits)
    check = compare_tokens("gguf", expected, tokens)
    yield check if precision == "f32" else in_fewer_bits(check, limits)


def feed(model: Any, tokens: list[int]) -> Tensor:
    """The logits of further tokens, one row each."""
    model.eval(tokens)
    return torch.from_numpy(numpy.array(model.scores[model.n_tokens - len(tokens) : model.n_tokens]))


def open_model(path: Path, context: int) -> Any:
    """The model in llama.cpp on the processor. Raises ParityError where it does not load."""
    llama: Any = importlib.import_module("llama_cpp")
    try:
        return llama.Llama(str(path), n_ctx=context, logits_all=True, type_k=_FLOAT, type_v=_FLOAT, verbose=False)
    except ValueError as error:
        raise ParityError(f"llama.cpp does not load {path}: {error}") from error


def greedy_tokens(model: Any, prompt: list[int], count: int) -> list[int]:
    model.reset()
    result = [int(feed(model, prompt)[-1].argmax())]
    while len(result) < count:
        result.append(int(feed(model, result[-1:])[-1].argmax()))
    return result
