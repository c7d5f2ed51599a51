"""Stock checkpoints: the source's own class with the weights that are left."""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphprune.backends.attempts import attempt
from graphprune.backends.huggingface.files import write_json
from graphprune.backends.huggingface.skeletons import renumber, skeleton
from graphprune.backends.huggingface.stock_configs import stock_configs
from graphprune.ir.graph import Graph
from graphprune.ir.serial import main_dtype, stored_tensors
from graphprune.running.comparison import agree
from graphprune.weights.stored import any_stored, narrowed

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

ATTEMPTS = 8  # stock configurations with the right shapes that are tried for the right function


def stock_models(graph: Graph) -> Iterator["PreTrainedModel"]:
    """The source's own class with the graph's weights, under each configuration with which it computes the same.

    None where the graph is a part of what the class is.
    """
    if graph.source.left_out:
        return  # the class is of more than the graph
    for config in itertools.islice(stock_configs(graph), ATTEMPTS):
        model = stock_model(graph, config)
        if model is not None and computes_alike(model, graph):
            yield model


def computes_alike(model: "PreTrainedModel", graph: Graph) -> bool:
    """Say whether the class computes what the graph does; one that has the shapes may still be unable to run them."""
    return attempt(lambda: agree(model, graph)) is True


def stock_model(graph: Graph, config: "PretrainedConfig") -> "PreTrainedModel | None":
    """The model on the graph's own tensors, or None where a parameter that the graph never read cannot be found."""
    import transformers
    from transformers.initialization import no_init_weights

    config.dtype = main_dtype(graph)
    architecture = getattr(transformers, graph.source.architecture)
    with no_init_weights():
        model = architecture._from_config(config, dtype=main_dtype(graph)).eval()
    model.tie_weights()  # which is left out with the initialisation
    parameters = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    old = renumbered_from(graph)
    state = by_every_name(model, {old[n]: t for n, t in stored_tensors(graph).items() if old.get(n) in parameters})
    state |= unread_parameters(graph, {n: s for n, s in model_shapes(model).items() if n not in state})
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    loaded = {id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False) if name in state}
    return model if all(id(parameter) in loaded for parameter in model.parameters()) else None


def by_every_name(model: "PreTrainedModel", state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each under all names of its parameter: a graph knows a tied one by one of them."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    found = dict(state)
    for alike in names.values():
        known = next((state[name] for name in alike if name in state), None)
        if known is not None:
            found |= {name: known for name in alike if name not in state}
    return found


def model_shapes(model: "PreTrainedModel") -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def renumbered_from(graph: Graph) -> dict[str, str]:
    """The name in the stock model of each of the graph's tensors; the same unless whole layers were dropped."""
    found = skeleton(graph.source.model_config, graph.source.architecture)
    return renumber(found.shapes if found else {}, {n: tuple(t.shape) for n, t in graph.tensors().items()})


def unread_parameters(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Parameters of the source that its graph never reads (a pooler), from the source folder."""
    import transformers

    if not shapes or graph.source.folder is None:
        return {}
    architecture = getattr(transformers, graph.source.architecture)
    model = architecture.from_pretrained(
        graph.source.folder,
        use_safetensors=True,
        dtype=main_dtype(graph),
        trust_remote_code=False,
        local_files_only=True,
    )
    found = dict(model.named_parameters())
    return {n: found[n].detach() for n, shape in shapes.items() if n in found and tuple(found[n].shape) == shape}


def narrow_model(model: "PreTrainedModel", dtype: torch.dtype) -> None:
    """Give a model's weights a type; those that are only stored become real, tied ones once."""
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and any_stored([parameter]):
                made.setdefault(id(parameter), torch.nn.Parameter(narrowed(parameter, dtype), parameter.requires_grad))
                module._parameters[name] = made[id(parameter)]
    model.to(dtype)  # type: ignore[arg-type]  # transformers' wrapper hides self


def write_stock(model: "PreTrainedModel", folder: Path, shard_bytes: int) -> list[Path]:
    """Write the stock checkpoint by transformers' own means; config.json in today's spelling and in the older one."""
    before = set(folder.iterdir())
    model.save_pretrained(folder, max_shard_size=shard_bytes)
    path = folder / "config.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    for name in (
        "_name_or_path",
        "auto_map",
    ):  # the class is transformers' own: code of the source's folder is not there
        data.pop(name, None)
    write_json(path, data)
    spelled = {**data, **older_spelling(data)}
    write_json(path, spelled)
    if not reads_back(model.config, folder):
        write_json(path, data)
    return sorted(set(folder.iterdir()) - before | {path})


def older_spelling(data: Mapping[str, object]) -> dict[str, object]:
    """The fields that readers before transformers 5 look for: without `rope_theta` they would assume 10000."""
    result = {"torch_dtype": data["dtype"]} if "dtype" in data else {}
    rope = data.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        result["rope_theta"] = rope["rope_theta"]
        if scaling.get("rope_type", "default") != "default":
            result["rope_scaling"] = scaling
    return result


def reads_back(config: "PretrainedConfig", folder: Path) -> bool:
    """Say whether config.json, with both spellings, still means the same configuration."""
    read = type(config).from_pretrained(folder).to_dict()
    wanted = config.to_dict()
    ignored = {
        "architectures",
        "auto_map",
        "transformers_version",
        "_name_or_path",
        "rope_theta",
        "rope_scaling",
        "torch_dtype",
    }
    return all(read.get(key) == value for key, value in wanted.items() if key not in ignored)
