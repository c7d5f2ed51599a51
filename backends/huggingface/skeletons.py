"""Skeletons: the shapes that a class of transformers has under a configuration, by the names of its tensors."""

import contextlib
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from graphprune.backends.attempts import attempt

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

Shapes = Mapping[str, tuple[int, ...]]
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True)
class Skeleton:
    """The shapes of a class under one configuration: all parameters and buffers, and which of them are parameters."""

    shapes: Shapes
    parameters: frozenset[str]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from warning about what is only tried, and from drawing progress bars of its own."""
    import transformers

    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def skeleton(config: "PretrainedConfig", architecture: str) -> Skeleton | None:
    """The shapes of the class under a configuration; None where the class is unknown or refuses it."""
    model = attempt(lambda: construct(config, architecture))
    if isinstance(model, Exception):
        return None
    parameters = {name: tuple(p.shape) for name, p in model.named_parameters()}
    buffers = {name: tuple(b.shape) for name, b in model.named_buffers()}
    return Skeleton({**parameters, **buffers}, frozenset(parameters))


def construct(config: "PretrainedConfig", architecture: str) -> "nn.Module":
    import transformers

    with torch.device("meta"), torch.no_grad():
        model: nn.Module = getattr(transformers, architecture)(config)
    return model


def shapes_of(config: "PretrainedConfig | None", architecture: str) -> Shapes | None:
    found = None if config is None else skeleton(config, architecture)
    return None if found is None else found.shapes


def renumber(old: Shapes, shapes: Shapes) -> dict[str, str]:
    """New names of the surviving parameters: where whole layers are gone, the later ones move up."""
    result = {name: name for name in shapes if name in old}
    survivors = {index for index in map(layer_index, result) if index >= 0}
    if survivors == set(range(layer_count(old))):
        return result
    order = {index: position for position, index in enumerate(sorted(survivors))}
    return {name: _NUMBER.sub(lambda m: str(order[int(m.group())]), name, count=1) for name in result}


def layer_index(name: str) -> int:
    """The first number among the parts of a name, -1 where there is none."""
    found = _NUMBER.search(name)
    return int(found.group()) if found else -1


def layer_count(shapes: Shapes) -> int:
    return max(map(layer_index, shapes), default=-1) + 1


def pattern(name: str) -> str:
    return _NUMBER.sub("*", name)


def partial_layers(old: Skeleton, shapes: Shapes) -> bool:
    """Say whether some layer lost a part that another kept: a dropped branch."""
    survivors = {layer_index(name) for name in shapes if name in old.shapes and layer_index(name) >= 0}
    present = {pattern(name) for name in shapes}
    missing = old.parameters - shapes.keys()
    return any(layer_index(name) in survivors and pattern(name) in present for name in missing)


def unequal_layers(old: Shapes, new: Shapes) -> bool:
    """Say whether parameters that had one shape across layers now have several."""
    seen: dict[tuple[str, tuple[int, ...]], set[tuple[int, ...]]] = defaultdict(set)
    for name, shape in new.items():
        seen[pattern(name), old[name]].add(shape)
    return any(len(shapes) > 1 for shapes in seen.values())


def unread_fit(old: Skeleton, found: Skeleton, new: Shapes) -> bool:
    """Parameters that the graph never read keep their shape: there is nothing to cut them by."""
    return all(old.shapes.get(name) == found.shapes[name] for name in found.parameters - new.keys())
