"""Sources: which tensors of a checkpoint's files a parameter is made of, as transformers makes it when it loads."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from graphprune.errors import SourceError, first_line, foreign
from graphprune.weights.mapping import copied, release

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Made:
    """What a parameter is made of: the names of tensors in files by pattern, and what converts them, if anything."""

    converter: Any = None
    names: Mapping[str, list[str]] = field(default_factory=dict)

    def all_names(self) -> list[str]:
        return [name for names in self.names.values() for name in names]


class Files:
    """The tensors of a checkpoint, mapped into memory: they are read where they are looked at."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        from safetensors import safe_open

        self.open: dict[str, Any] = {}
        for path in files:
            file = safe_open(path, framework="pt")
            self.open |= dict.fromkeys(names_in(file), file)

    def tensor(self, name: str) -> Tensor:
        found: Tensor = self.open[name].get_tensor(name)
        return found


def names_in(file: Any) -> list[str]:
    return list(file.keys())


def find_sources(model: "PreTrainedModel", files: Files) -> dict[str, Made]:
    """What each parameter and persistent buffer of a model without values is made of, by its name.

    Where several come of one conversion, they are under the name of the first.
    """
    with foreign(lambda error: SourceError(f"the tensors of the checkpoint cannot be assigned: {first_line(error)}")):
        return assign(model, sorted(files.open))


def assign(model: "PreTrainedModel", names: list[str]) -> dict[str, Made]:
    from transformers import conversion_mapping as known
    from transformers import core_model_loading as loading

    mapping = known.get_model_conversion_mapping(model)
    converters = [each for each in mapping if isinstance(each, loading.WeightConverter)]
    renamings = [each for each in mapping if isinstance(each, loading.WeightRenaming)]
    by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    state, prefix = model.state_dict(), model.base_model_prefix
    found: dict[str, Made] = {}
    for name in sorted(names, key=loading.dot_natural_key):
        target, pattern = loading.rename_source_key(name, renamings, converters, prefix, state)
        if target not in state and name in state:
            target, pattern = loading.rename_source_key(name, [], [], prefix, state)
        if target not in state:
            continue  # the class does not read it
        made = found.setdefault(target, Made(by_pattern[pattern] if pattern else None, {}))
        made.names.setdefault(pattern or name, []).append(name)  # type: ignore[attr-defined]
    return found


def make(model: "PreTrainedModel", target: str, made: Made, files: Files) -> dict[str, Tensor]:
    """The tensors that come of a source, each in memory of its own, by the names of their parameters."""
    held = {pattern: [files.tensor(name) for name in names] for pattern, names in made.names.items()}
    if made.converter is None:
        ((tensor,),) = held.values()
        results = {target: copied(tensor)}
    else:
        converter = copy.deepcopy(made.converter)
        for pattern, tensors in held.items():
            for name, tensor in zip(made.names[pattern], tensors, strict=True):
                converter.add_tensor(target, name, pattern, lambda tensor=tensor: tensor)
        with foreign(lambda error: SourceError(f"{target} cannot be made of its files: {first_line(error)}")):
            converted = converter.convert(target, model=model, config=model.config)
        results = {n: (t[0] if isinstance(t, list) else t).clone() for n, t in converted.items()}
    for tensors in held.values():
        for tensor in tensors:
            release(tensor)
    return results
