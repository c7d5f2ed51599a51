"""The parity check of `openelm/` in mlx-lm, where that is installed."""

import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from graphprune.errors import ParityError, first_line
from graphprune.running.comparison import Check, compare, compare_tokens

_TYPE = "openelm"


def can_check(folder: Path) -> bool:
    installed = all(importlib.util.find_spec(name) is not None for name in ("mlx", "mlx_lm"))
    return installed and model_type(folder) == _TYPE


def model_type(folder: Path) -> object:
    """What the configuration of a folder says that it is, if there is one."""
    return read_config(folder).get("model_type")


def read_config(folder: Path) -> Mapping[str, object]:
    path = folder / "config.json"
    read = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return read if isinstance(read, dict) else {}


def require_own(folder: Path) -> None:
    """Raise ParityError where a configuration names code: mlx-lm before 0.32 runs it without being asked."""
    if "model_file" in read_config(folder):
        raise ParityError(f"{folder / 'config.json'} names a model_file, which is code; graphprune writes none")


def check_mlx(folder: Path, expected: Mapping[str, Tensor]) -> Iterator[Check]:
    """Logits of a prompt and of cached steps, and greedy tokens, on the processor.

    In float32, in which MLX computes there: what mlx_lm rounds besides is for the user to choose.
    """
    model, cache = open_model(folder)
    prompt, steps = expected["input.prompt"][0].tolist(), expected["input.steps"][0].tolist()
    rows = [feed(model, cache, prompt), *(feed(model, cache, [token]) for token in steps)]
    found = {"prefill": rows[0][-expected["prefill"].shape[1] :], "cached steps": torch.cat(rows[1:])}
    for name, logits in found.items():
        yield compare(_TYPE, name, expected[name][0], logits.to(expected[name].dtype))
    yield compare_tokens(_TYPE, expected, greedy_tokens(model, prompt, len(expected["greedy.tokens"])))


def open_model(folder: Path) -> tuple[Any, Any]:
    """The model and an empty cache for it. Raises ParityError where mlx-lm does not load it."""
    require_own(folder)
    core: Any = importlib.import_module("mlx.core")
    utils: Any = importlib.import_module("mlx_lm.utils")
    core.set_default_device(core.cpu)
    try:
        model = utils.load_model(folder)[0]
    except (ValueError, TypeError, OSError) as error:
        raise ParityError(f"mlx-lm does not load {folder}: {first_line(error)}") from error
    model.set_dtype(core.float32)
    return model, empty_cache(model)


def empty_cache(model: Any) -> Any:
    caches: Any = importlib.import_module("mlx_lm.models.cache")
    return caches.make_prompt_cache(model)


def feed(model: Any, cache: Any, tokens: list[int]) -> Tensor:
    """The logits of further tokens, one row each; the cache goes on with them."""
    core: Any = importlib.import_module("mlx.core")
    return torch.from_numpy(numpy.array(model(core.array([tokens]), cache=cache))[0])


def greedy_tokens(model: Any, prompt: list[int], count: int) -> list[int]:
    cache = empty_cache(model)
    made = [int(feed(model, cache, prompt)[-1].argmax())]
    while len(made) < count:
        made.append(int(feed(model, cache, made[-1:])[-1].argmax()))
    return made
