"""Skeletons: a model of its configuration alone, into which the tensors of its files are put one by one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graphprune.errors import SourceError, foreign
from graphprune.frontend.places import is_generic
from graphprune.frontend.source import (
    explain_load_failure,
    load_config,
    model_class,
    stored_dtype,
    with_whole_attention,
)
from graphprune.models.patches import quiet_transformers
from graphprune.offload.sources import Files, Made, make

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def make_empty(folder: Path, dtype: torch.dtype | None) -> "PreTrainedModel":
    """The model of a folder with the buffers that it computes itself, and parameters that have no values."""
    import transformers
    from accelerate import init_empty_weights

    from graphprune.artefacts.loading import generic_class

    with quiet_transformers(), foreign(lambda error: explain_load_failure(str(folder), error)):
        config: Any = load_config(folder, str(folder), False) if not is_generic(folder) else None
        loader: Any = generic_class(folder) if config is None else model_class(config)
        if config is None:
            config = loader.config_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if not hasattr(loader, "_from_config"):
            loader = loader._model_mapping[type(config)]
        config.dtype = dtype or stored_dtype(folder, None, config) or torch.float32
        with init_empty_weights(include_buffers=False):
            made: PreTrainedModel = with_whole_attention(
                loader, lambda **told: loader._from_config(config, dtype=config.dtype, **told)
            )
        if (folder / "generation_config.json").is_file():
            made.generation_config = transformers.GenerationConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    return made


def types_of(model: "PreTrainedModel") -> dict[str, torch.dtype]:
    """The type that transformers loads each parameter and buffer in: some stay in float32."""
    plan: Mapping[str, torch.dtype] = model._get_dtype_plan(model.dtype)
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: planned(name, plan) or tensor.dtype for name, tensor in tensors}


def planned(name: str, plan: Mapping[str, torch.dtype]) -> torch.dtype | None:
    """The type of the first pattern, in which `*` stands for anything, that a part of the name fits."""
    for pattern, kind in plan.items():
        if re.search(re.escape(pattern).replace(r"\*", ".*"), name):
            return kind
    return None


def fill(model: "PreTrainedModel", sources: Mapping[str, Made], files: Files, types: Mapping[str, torch.dtype]) -> None:
    """Read these parameters and buffers. Raises SourceError where one has another shape."""
    for target, made in sources.items():
        for name, tensor in make(model, target, made, files).items():
            wanted = model.get_parameter_or_buffer(name).shape
            if tensor.shape != wanted:
                raise SourceError(f"{name} is {tuple(tensor.shape)} in its file, and {tuple(wanted)} by config.json")
            put(model, name, tensor.to(types[name]))
    model.tie_weights()


def require_filled(folder: Path, model: "PreTrainedModel") -> None:
    """Raise SourceError where a parameter has no values."""
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise SourceError(f"{folder} lacks {len(missing)} weights, such as {missing[0]}; copy the checkpoint again")


def put(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a model another tensor in the place of a parameter or buffer."""
    scope, _, leaf = name.rpartition(".")
    module = model.get_submodule(scope)
    if leaf in module._buffers:
        module._buffers[leaf] = tensor
    else:
        module._parameters[leaf] = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, False)
