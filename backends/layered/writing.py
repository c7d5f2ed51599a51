"""Write a form: config.json, safetensors, the files that come along, checked against what the loader would make."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphprune.backends.layered.loaders import tensors_asked_for
from graphprune.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor

    from graphprune.ir.graph import Graph


@dataclass(frozen=True, eq=False)
class Form:
    """What config.json says, and the tensors by the names that its class has for them."""

    config: Mapping[str, Any]
    tensors: "Mapping[str, Tensor]"


def write_form(form: Form, graph: "Graph", folder: Path, shard_bytes: int, code: Sequence[Path] = ()) -> list[Path]:
    """Write a folder that opens by itself; returns its paths. Raises ExportError, OSError."""
    from graphprune.backends.huggingface.copying import copy_companions
    from graphprune.backends.huggingface.files import write_json, write_tensors
    from graphprune.ir.serial import narrowest_dtype, type_name

    require_asked_for(form)
    folder.mkdir(parents=True, exist_ok=True)
    stored = type_name(narrowest_dtype(graph))
    said = {name: value for name, value in form.config.items() if value is not None}
    paths = [write_json(folder / "config.json", {**said, "dtype": stored, "torch_dtype": stored})]
    paths += write_tensors(form.tensors, folder, shard_bytes)
    paths += [Path(shutil.copyfile(source, folder / source.name)) for source in code]
    return sorted({*paths, *copy_companions(graph.source.files, folder)})


def require_asked_for(form: Form) -> None:
    """Raise ExportError where the tensors are not those that the loader makes from the configuration."""
    asked = tensors_asked_for(form.config)
    given = {name: tuple(tensor.shape) for name, tensor in form.tensors.items()}
    name = next((name for name in (*asked, *given) if asked.get(name) != given.get(name)), None)
    if name is None:
        return
    kind = form.config["model_type"]
    if name not in asked:
        raise ExportError(f"{kind} has no place for {name}")
    raise ExportError(f"{kind} asks for {name} {list(asked[name])}, and it is {given.get(name, 'absent')}")
