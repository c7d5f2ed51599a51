"""Pooling: how the states of a text's tokens become one embedding, as sentence-transformers writes it down."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from graphprune.errors import UsageError

MODULES = "modules.json"
_CONFIG, _KEY, _LENGTHS = "config.json", "pooling_mode", "sentence_*_config.json"


def first_token(states: Tensor, mask: Tensor) -> Tensor:
    """The state of the first token that is no padding."""
    return states[torch.arange(len(states), device=states.device), mask.argmax(1)]


def last_token(states: Tensor, mask: Tensor) -> Tensor:
    """The state of the last token that is no padding."""
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    return states[torch.arange(len(states), device=states.device), last]


def largest(states: Tensor, mask: Tensor) -> Tensor:
    return states.masked_fill(mask[..., None] == 0, -torch.inf).amax(1)


def total(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask[..., None]).sum(1)


def mean(states: Tensor, mask: Tensor) -> Tensor:
    return total(states, mask) / mask.sum(1, keepdim=True).clamp(min=1)


def mean_by_root(states: Tensor, mask: Tensor) -> Tensor:
    return total(states, mask) / mask.sum(1, keepdim=True).clamp(min=1).sqrt()


def weighted_mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean in which a token counts by its place from the front: 1, 2, 3."""
    return mean(states, mask * torch.arange(1, mask.shape[1] + 1, device=mask.device))


# By the names that they have in the configuration of sentence-transformers' Pooling, without `pooling_mode_`.
MODES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls_token": first_token,
    "max_tokens": largest,
    "mean_tokens": mean,
    "mean_sqrt_len_tokens": mean_by_root,
    "weightedmean_tokens": weighted_mean,
    "lasttoken": last_token,
}
_SHORT = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "mean_sqrt_len": "mean_sqrt_len_tokens"}
_SHORT |= {"weightedmean": "weightedmean_tokens"}


def pool(states: Tensor, mask: Tensor, modes: tuple[str, ...]) -> Tensor:
    """The embedding [rows, n] of states [rows, tokens, d], of which the mask [rows, tokens] leaves padding out.

    Several modes stand one behind the other.
    """
    wide = mask.to(states.dtype)
    return torch.cat([MODES[mode](states, wide) for mode in modes], -1)


def pooling_of(folder: Path | None) -> tuple[str, ...]:
    """The modes of a folder of sentence-transformers; the mean over tokens where a folder says nothing.

    Raises UsageError for a mode that is not known here.
    """
    place = next((folder / m["path"] for m in modules_of(folder) if is_pooling(m)), None) if folder else None
    path = place / _CONFIG if place is not None else None
    if path is None or not path.is_file():
        return ("mean_tokens",)
    found = json.loads(path.read_text(encoding="utf-8"))
    said = found.get(_KEY)
    names = said if isinstance(said, list) else [said] if isinstance(said, str) else list(flags(found))
    modes = tuple(_SHORT.get(name, name) for name in names)
    unknown = next((mode for mode in modes if mode not in MODES), None)
    if unknown is not None or not modes:
        raise UsageError(f"{path} pools by {unknown or 'nothing'}; known are {', '.join(MODES)}")
    return modes


def flags(found: Mapping[str, object]) -> list[str]:
    """The modes that are switched on one by one."""
    return [key.removeprefix(f"{_KEY}_") for key, on in found.items() if key.startswith(f"{_KEY}_") and on is True]


def modules_of(folder: Path) -> list[dict[str, str]]:
    """The modules that a folder of sentence-transformers names; none of another."""
    path = folder / MODULES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def is_pooling(module: Mapping[str, str]) -> bool:
    return module.get("type", "").endswith("Pooling")


def longest_text(folder: Path | None) -> int | None:
    """The tokens at which sentence-transformers cuts a text, None where a folder does not say."""
    paths = sorted(folder.glob(_LENGTHS)) if folder is not None else []
    found = (json.loads(path.read_text(encoding="utf-8")).get("max_seq_length") for path in paths)
    return next((length for length in found if isinstance(length, int)), None)
