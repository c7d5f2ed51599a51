"""The huggingface backend: a graph as a folder that `AutoModelForCausalLM.from_pretrained` loads."""

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, final

from safetensors import SafetensorError
from torch import Tensor

from graphprune.backends.copying import copy_companions
from graphprune.backends.stock import quiet, renumber, skeleton, stock_config, stock_configs
from graphprune.budget.quantities import FileBytes
from graphprune.errors import ExportError
from graphprune.generic import CODE, MODELING
from graphprune.ir.contract import is_state
from graphprune.ir.graph import Graph
from graphprune.ir.placement import on_cpu, unshared
from graphprune.ir.serial import main_dtype, narrowest_dtype, stored_tensors, to_data, type_name
from graphprune.running.comparison import agree

ATTEMPTS = 8  # stock configurations with the right shapes that are tried for the right function
# What the graph already fixes, or what would make a cache believe in windows that the graph does not need.
_LEFT_OUT = frozenset([
    "architectures", "auto_map", "model_type", "transformers_version", "_name_or_path", "dtype", "torch_dtype",
    "sliding_window", "layer_types", "use_sliding_window", "attention_chunk_size", "per_layer_config",
    "kv_sharing_modes", "num_kv_shared_layers", "rope_scaling", "num_hidden_layers", "quantization_config",
    "is_encoder_decoder", "cache_implementation", "graph",
])  # fmt: skip


@final
@dataclass(frozen=True)
class HuggingFace:
    """Write config.json, safetensors and the source's tokenizer, template and licence files.

    `form` is `auto`: a stock checkpoint where a configuration of the source's own architecture has the graph's shapes
    and computes what the graph computes, otherwise the generic `modeling_graphprune.py`; `stock` and `generic` force
    one. Weights above `shard_bytes` are split into several files.
    """

    name: ClassVar[str] = "huggingface"
    form: Literal["auto", "stock", "generic"] = "auto"
    shard_bytes: int = 5_000_000_000

    def quantity(self, graph: Graph) -> FileBytes:
        """What the checkpoint takes, as a function of the widths."""
        half = graph.source.dtype is not None and graph.source.dtype.itemsize == 2
        return FileBytes("half" if half else "fp32", buffers=False, place="checkpoint")

    def export(self, graph: Graph, folder: Path) -> list[Path]:
        """Write the checkpoint into `folder`; returns the paths of its files.

        Raises ExportError where the graph has no stock form and `stock` was asked for, where a tensor has no data, or
        where a file cannot be written.
        """
        meta = next((name for name, tensor in graph.tensors().items() if tensor.is_meta), None)
        if meta is not None:
            raise ExportError(f"{meta} has no weights; capture the model with weights before exporting it")
        graph = on_cpu(graph)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            written = self.write(graph, folder)
            return sorted({*written, *copy_companions(graph.source.files, folder)})
        except OSError as error:  # a copy that fails names its source first
            raise ExportError(f"cannot write {error.filename2 or folder}: {error.strerror or error}") from error
        except SafetensorError as error:
            raise ExportError(f"cannot write {folder}: {error}") from error

    def expresses(self, graph: Graph) -> bool:
        """Say whether some configuration of the source's own architecture has this graph's shapes."""
        return stock_config(graph) is not None

    def write(self, graph: Graph, folder: Path) -> list[Path]:
        with quiet():
            model = None if self.form == "generic" else next(stock_models(graph), None)
            if model is not None:
                return write_stock(model.to(narrowest_dtype(graph)), folder, self.shard_bytes)
        if self.form == "stock":
            raise ExportError(f"no configuration of {graph.source.architecture or 'the source'} fits; use form=generic")
        return write_generic(graph, folder, self.shard_bytes)


def stock_models(graph: Graph) -> Iterator[Any]:
    """The source's own class with the graph's weights, under each configuration with which it computes the same."""
    for config in itertools.islice(stock_configs(graph), ATTEMPTS):
        model = stock_model(graph, config)
        if model is not None and computes_alike(model, graph):
            yield model


def computes_alike(model: Any, graph: Graph) -> bool:
    """Say whether the class computes what the graph does; one that has the shapes may still be unable to run them."""
    try:
        return agree(model, graph)
    except Exception:  # whatever a model's own code raises on sizes that it never meant to have
        return False


def stock_model(graph: Graph, config: Any) -> Any:
    """The model on the graph's own tensors, or None where a parameter that the graph never read cannot be found."""
    import transformers
    from transformers.initialization import no_init_weights

    config.dtype = main_dtype(graph)
    architecture = getattr(transformers, graph.source.architecture)
    with no_init_weights():
        model = architecture._from_config(config, dtype=main_dtype(graph)).eval()
    parameters = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    old = renumbered_from(graph)
    state = {old[n]: t for n, t in stored_tensors(graph).items() if old.get(n) in parameters}
    state |= unread_parameters(graph, {n: s for n, s in model_shapes(model).items() if n not in state})
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    loaded = {id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False) if name in state}
    return model if all(id(parameter) in loaded for parameter in model.parameters()) else None


def model_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def renumbered_from(graph: Graph) -> dict[str, str]:
    """The name in the stock model of each of the graph's tensors; the same unless whole layers were dropped."""
    found = skeleton(graph.source.config, graph.source.architecture)
    return renumber(found.shapes if found else {}, {n: tuple(t.shape) for n, t in graph.tensors().items()})


def unread_parameters(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Parameters of the source that its graph never reads (a pooler), from the source folder."""
    import transformers

    if not shapes or graph.source.folder is None:
        return {}
    architecture = getattr(transformers, graph.source.architecture)
    model = architecture.from_pretrained(graph.source.folder, use_safetensors=True, dtype=main_dtype(graph))
    found = dict(model.named_parameters())
    return {n: found[n].detach() for n, shape in shapes.items() if n in found and tuple(found[n].shape) == shape}


def write_stock(model: Any, folder: Path, shard_bytes: int) -> list[Path]:
    """Write the stock checkpoint by transformers' own means; config.json in today's spelling and in the older one."""
    before = set(folder.iterdir())
    model.save_pretrained(folder, max_shard_size=shard_bytes)
    path = folder / "config.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data.pop("_name_or_path", None)
    write_json(path, data)
    spelled = {**data, **older_spelling(data)}
    write_json(path, spelled)
    if not reads_back(model.config, folder):
        write_json(path, data)
    return sorted(set(folder.iterdir()) - before | {path})


def older_spelling(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that readers before transformers 5 look for: without `rope_theta` they would assume 10000."""
    result = {"torch_dtype": data["dtype"]} if "dtype" in data else {}
    rope = data.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        result["rope_theta"] = rope["rope_theta"]
        if scaling.get("rope_type", "default") != "default":
            result["rope_scaling"] = scaling
    return result


def reads_back(config: Any, folder: Path) -> bool:
    """Say whether config.json, with both spellings, still means the same configuration."""
    read = type(config).from_pretrained(folder).to_dict()
    wanted = config.to_dict()
    ignored = {"architectures", "transformers_version", "_name_or_path", "rope_theta", "rope_scaling", "torch_dtype"}
    return all(read.get(key) == value for key, value in wanted.items() if key not in ignored)


def write_json(path: Path, data: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path


def write_generic(graph: Graph, folder: Path, shard_bytes: int) -> list[Path]:
    """Write the graph into config.json, its tensors, and the file that runs it."""
    paths = [write_json(folder / "config.json", generic_config(graph))]
    paths += write_tensors(narrowed_tensors(graph), folder, shard_bytes)
    for source in CODE:
        paths.append(Path(shutil.copyfile(source, folder / source.name)))
    generation = graph.source.generation_config
    has_own = graph.source.files is not None and (graph.source.files / "generation_config.json").is_file()
    if generation is not None and graph.source.kind == "decoder" and not has_own:
        write_json(folder / "generation_config.json", json.loads(generation.to_json_string()))
        paths.append(folder / "generation_config.json")
    return paths


def narrowed_tensors(graph: Graph) -> dict[str, Tensor]:
    """The tensors to store; parameters in the source's own type where that is exact."""
    main, narrow, parameters = main_dtype(graph), narrowest_dtype(graph), graph.parameters()
    return {n: t.to(narrow) if n in parameters and t.dtype == main else t for n, t in stored_tensors(graph).items()}


def generic_config(graph: Graph) -> dict[str, Any]:
    """config.json of the generic form: the source's plain fields, the packed graph, and where its class is."""
    from graphprune.generic.program_graphprune import pack

    decoder = graph.source.kind == "decoder"
    class_name = "GraphpruneForCausalLM" if decoder else "GraphpruneModel"
    auto = "AutoModelForCausalLM" if decoder else "AutoModel"
    dtype = type_name(narrowest_dtype(graph))
    return {
        **plain_fields(graph),
        "architectures": [class_name],
        "auto_map": {"AutoConfig": f"{MODELING}.GraphpruneConfig", auto: f"{MODELING}.{class_name}"},
        "model_type": "graphprune",
        **cache_fields(graph),
        "dtype": dtype,
        "torch_dtype": dtype,
        "source_architecture": graph.source.architecture or plain_fields(graph).get("source_architecture", ""),
        "graph": pack(to_data(graph)),
    }


def cache_fields(graph: Graph) -> dict[str, Any]:
    """What a cache is made from: how many layers keep something, and what, where it is not keys and values alone."""
    layers: dict[str, set[str]] = {}
    for name in filter(is_state, graph.inputs):
        layers.setdefault(name.split(".")[1], set()).add(name.split(".")[2])
    types = [layer_type(parts) for parts in layers.values()]
    if set(types) == {"linear_attention"}:  # transformers asks a cache for its length: this layer says none
        types.append("full_attention")
    count: dict[str, Any] = {"num_hidden_layers": len(types)}
    if set(types) <= {"full_attention"}:
        return count
    windows = max(sum(part.startswith("conv") for part in parts) for parts in layers.values())
    return {**count, "layer_types": types, "number_of_conv_states": max(1, windows)}


def layer_type(parts: set[str]) -> str:
    """The name that transformers has for a cache layer with these parts."""
    if "key" not in parts:
        return "linear_attention"
    return "indexed_attention" if "indexer" in parts else "hybrid" if len(parts) > 2 else "full_attention"


def plain_fields(graph: Graph) -> dict[str, Any]:
    """The numbers, texts and token ids of the source's configuration, under the common names as well as its own."""
    if graph.source.config is None:
        return {}
    config = graph.source.config.get_text_config()
    data = config.to_dict()
    fields = {key: value for key, value in data.items() if is_plain(value) and key not in _LEFT_OUT}
    for name in ("vocab_size", "hidden_size", "num_attention_heads", "max_position_embeddings"):
        own = config.attribute_map.get(name, name)  # what differs between layers cannot be read as an attribute
        value = data[own] if own in data else getattr(config, name, None)
        if isinstance(value, int):
            fields[name] = value
    # AutoTokenizer looks here where the tokenizer files name no class, as it did at the source's model type.
    fields.setdefault("tokenizer_class", tokenizer_class(graph.source.config.model_type))
    if "logits" in graph.outputs and graph.source.kind == "decoder":
        fields["vocab_size"] = int(graph.results["logits"].meta["value"].shape[-1])
    return fields


def tokenizer_class(model_type: str) -> str | None:
    """The tokenizer class that transformers takes for a model type, where it has one."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    return TOKENIZER_MAPPING_NAMES.get(model_type)


def is_plain(value: Any) -> bool:
    numbers = isinstance(value, list) and all(isinstance(item, int) for item in value)
    return numbers or isinstance(value, (int, float, str, bool))


def write_tensors(tensors: Mapping[str, Tensor], folder: Path, shard_bytes: int) -> list[Path]:
    """Write model.safetensors, or numbered shards with their index where it would exceed `shard_bytes`."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    plan = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=shard_bytes)
    paths = []
    for filename, names in plan.filename_to_tensors.items():
        save_file(unshared({name: tensors[name].cpu() for name in names}), folder / filename, metadata={"format": "pt"})
        paths.append(folder / filename)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        paths.append(write_json(folder / "model.safetensors.index.json", index))
    return paths
